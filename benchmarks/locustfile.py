"""Locust users for each way in which a server that reads images is used.

    locust -f benchmarks/locustfile.py --host http://127.0.0.1:8000                       the web page on port 8089
    locust -f benchmarks/locustfile.py --host http://127.0.0.1:8000 --headless -u 8 -t 30s NativeStream MultiImage
    locust -f benchmarks/locustfile.py --master     and, elsewhere,     locust -f benchmarks/locustfile.py --worker \\
                                                                          --master-host HOST [--records FILE]

The key comes from --api-key or DASHSCOPE_API_KEY. A stream's first token is a request of its own in the table, named
`... first token`. Locust is a closed load, and rounds percentiles to two digits: --records FILE keeps every request
raw, for `python -m benchmarks report FILE`, which does not. Workers keep their own, with their number in the name.
"""

from locust import User, constant, events, task  # isort: skip -- gevent patches the standard library before all else

import hashlib
import itertools
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import gevent  # type: ignore[import-untyped]
import requests
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

# Locust puts this file's folder before the repository on the path; run from there, or installed, both are found.
import sys  # isort: skip

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import shapes
from benchmarks.dialects import DIALECTS, NATIVE_PATH, Delta, Dialect
from benchmarks.environment import environment
from benchmarks.record import Record, Writer
from benchmarks.workload import Ask, Workload
from client.sse import Decoder

Shape = shapes.chosen()
"""The load's shape, if HOMESCOPE_SHAPE names one; Locust's own --users and --run-time otherwise."""


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def add_arguments(parser: LocustArgumentParser) -> None:
    parser.add_argument("--api-key", env_var="DASHSCOPE_API_KEY", default="", is_secret=True, help="Key of the server")
    parser.add_argument("--model", default="qwen3-vl-30b-a3b-instruct", help="Model to ask")
    parser.add_argument("--image-size", type=int, default=480, help="Side of each image, pixels")
    parser.add_argument("--output-tokens", type=int, default=64, help="Most tokens of an answer")
    parser.add_argument("--records", default="", help="File for raw records, JSON lines", include_in_web_ui=False)


@events.init.add_listener  # type: ignore[untyped-decorator]
def look_at_the_clock(**kwargs: Any) -> None:
    """gevent's timers count from when its loop last looked, before all imports: a short --run-time would be over before
    the first request."""
    gevent.get_hub().loop.update_now()


_given: dict[str, str] = {}
"""What this process was given itself; a worker's options are overwritten by its master's, empty ones, too."""


@events.init.add_listener  # type: ignore[untyped-decorator]
def keep_options(environment: Environment, **kwargs: Any) -> None:
    if environment.parsed_options:
        _given.update(records=environment.parsed_options.records, api_key=environment.parsed_options.api_key)


def option(locust: Environment, name: str) -> str:
    return str(getattr(locust.parsed_options, name, "") or _given.get(name, ""))


_START = time.perf_counter_ns()
_numbers = itertools.count()
_writers: list[Writer] = []


@events.test_start.add_listener  # type: ignore[untyped-decorator]
def open_records(environment: Environment, **kwargs: Any) -> None:
    path = option(environment, "records")
    if path and not isinstance(environment.runner, MasterRunner):
        _writers.append(Writer(_own(Path(path), environment), {**_run(environment)}))


def _own(path: Path, locust: Environment) -> Path:
    """A worker's file has its number in the name: workers share a folder, not a file."""
    runner = locust.runner
    return path.with_stem(f"{path.stem}-{runner.worker_index}") if isinstance(runner, WorkerRunner) else path


def _run(locust: Environment) -> dict[str, Any]:
    return {"name": "locust", "url": locust.host, "arrivals": "closed", **environment()}


@events.test_stop.add_listener  # type: ignore[untyped-decorator]
def close_records(environment: Environment, **kwargs: Any) -> None:
    while _writers:
        _writers.pop().close()


class ImageUser(User):
    """What all users share: a session, a source of requests, and how one is told to Locust."""

    abstract = True
    wait_time = constant(0)
    dialect: Dialect = DIALECTS["native"]
    workload: ClassVar[Mapping[str, Any]] = {}

    def on_start(self) -> None:
        options = self.environment.parsed_options
        self.session = requests.Session()
        self.session.trust_env = False
        if key := option(self.environment, "api_key"):
            self.session.headers["authorization"] = f"Bearer {key}"
        self.model = options.model
        seed = int.from_bytes(os.urandom(4), "big")
        side = options.image_size
        self.asks = Workload(
            "chart", side, side, output_tokens=options.output_tokens, seed=seed, **self.workload
        ).asks()

    def on_stop(self) -> None:
        self.session.close()

    def url(self, path: str) -> str:
        return str(self.host).rstrip("/") + path

    def ask(self, name: str, dialect: Dialect, ask: Ask, **headers: str) -> str:
        """One question from the send to the last byte; the answer's text."""
        body = dialect.body(ask, self.model, {})
        return self.send(name, dialect, ask, body, {**dialect.headers(), **headers})

    def send(self, name: str, dialect: Dialect, ask: Ask, body: bytes, headers: Mapping[str, str]) -> str:
        hearing = Hearing(name, dialect, ask, len(body))
        with self.told(hearing):
            response = self.session.post(
                self.url(dialect.path),
                data=body,
                headers={"content-type": "application/json", **headers},
                stream=dialect.stream,
                timeout=300,
            )
            hearing.hear(response)
        return hearing.text

    @contextmanager
    def told(self, hearing: "Hearing") -> Iterator[None]:
        """Tells Locust and the records how it ended, whatever ended it."""
        error: Exception | None = None
        try:
            yield
        except Exception as caught:  # Locust lists failures by their exception
            error = caught
        record = hearing.record(error)
        self.fire(hearing.name, (record.end - record.sent) / 1e6, record.bytes_received, error)
        if record.first is not None:
            self.fire(f"{hearing.name} first token", (record.first - record.sent) / 1e6, 0, None)
        for writer in _writers:
            writer.write(record)

    def fire(self, name: str, milliseconds: float, length: int, error: Exception | None) -> None:
        self.environment.events.request.fire(
            request_type="VL",
            name=name,
            response_time=milliseconds,
            response_length=length,
            exception=error,
            context={},
        )


class Refused(Exception):
    """Raised when the server answered with an error; Locust groups failures by this text."""


class Hearing:
    """An answer while it comes."""

    def __init__(self, name: str, dialect: Dialect, ask: Ask, length: int) -> None:
        self.name, self.text = name, ""
        self._dialect, self._ask, self._length = dialect, ask, length
        self._sent = self._now()
        self._times: list[int] = []
        self._status = self._received = 0
        self._counts = {"input_tokens": 0, "output_tokens": 0, "image_tokens": 0}

    @staticmethod
    def _now() -> int:
        return time.perf_counter_ns() - _START

    def hear(self, response: requests.Response) -> None:
        """Reads it to its end. Raises Refused."""
        self._status = response.status_code
        if response.status_code != 200:
            raise Refused(f"HTTP {response.status_code} {_code(response)}")
        if not self._dialect.stream:
            self._received = len(response.content)
            self._take(self._dialect.delta(response.content), stamp=False)
            return
        decoder = Decoder()
        for chunk in response.iter_content(None):
            self._received += len(chunk)
            for event in decoder.feed(chunk):
                if event.data != "[DONE]":
                    self._take(self._dialect.delta(event.data), stamp=True)

    def _take(self, delta: Delta, stamp: bool) -> None:
        if delta.error:
            raise Refused(delta.error)
        if delta.text:
            self.text += delta.text
            if stamp:
                self._times.append(self._now())
        for name in self._counts:
            self._counts[name] = getattr(delta, name) or self._counts[name]

    def record(self, error: Exception | None) -> Record:
        return Record(
            number=next(_numbers),
            name=self.name,
            intended=self._sent,
            sent=self._sent,
            end=self._now(),
            first=self._times[0] if self._times else None,
            gaps=[round((after - before) / 1e3) for before, after in itertools.pairwise(self._times)],
            status=self._status,
            outcome="ok" if error is None else str(error) if isinstance(error, Refused) else type(error).__name__,
            bytes_sent=self._length,
            bytes_received=self._received,
            images=len(self._ask.images),
            pixels=sum(picture.pixels for picture in self._ask.images),
            input_tokens=self._counts["input_tokens"],
            output_tokens=self._counts["output_tokens"],
            image_tokens=self._counts["image_tokens"],
            digest=hashlib.sha256(self.text.encode()).hexdigest() if self.text else "",
        )


def _code(response: requests.Response) -> str:
    try:
        body = response.json()
        return str(body.get("code") or body.get("error", {}).get("code") or "")
    except (ValueError, AttributeError):
        return ""


class NativeSync(ImageUser):
    """A whole answer, in DashScope's own protocol."""

    @task
    def read(self) -> None:
        self.ask("native", DIALECTS["native"], next(self.asks))


class NativeStream(ImageUser):
    """A streamed answer, in DashScope's own protocol."""

    @task
    def read(self) -> None:
        self.ask("native stream", DIALECTS["native-sse"], next(self.asks))


class CompatibleStream(ImageUser):
    """A streamed answer, in OpenAI's form."""

    @task
    def read(self) -> None:
        self.ask("compatible stream", DIALECTS["compatible-sse"], next(self.asks))


class MultiImage(ImageUser):
    """Four images in one question."""

    workload: ClassVar[Mapping[str, Any]] = {"images": 4}

    @task
    def read(self) -> None:
        self.ask("four images", DIALECTS["native-sse"], next(self.asks))


class RepeatedImage(ImageUser):
    """Nine of ten images have been seen before: what caches are for. Each question is new."""

    workload: ClassVar[Mapping[str, Any]] = {"repeated": 0.9, "pool": 8}

    @task
    def read(self) -> None:
        ask = next(self.asks)
        number = next(_numbers)
        self.ask("repeated image", DIALECTS["native"], Ask(ask.images, f"{ask.prompt} ({number})", ask.max_tokens))


class UploadedImage(ImageUser):
    """An image that is uploaded first, and asked about by its oss:// URL, as the SDK does with local files."""

    @task
    def read(self) -> None:
        ask = next(self.asks)
        reference = self.upload(ask)
        if reference:
            linked = tuple(picture.behind(reference) for picture in ask.images)
            resolving = {"x-dashscope-ossresourceresolve": "enable"}
            self.ask("uploaded image", DIALECTS["native"], Ask(linked, ask.prompt, ask.max_tokens), **resolving)

    def upload(self, ask: Ask) -> str:
        """The oss:// URL, empty when it failed."""
        data = ask.images[0].data
        hearing = Hearing("upload", DIALECTS["native"], ask, len(data))
        with self.told(hearing):
            query = {"action": "getPolicy", "model": self.model}
            answer = self.session.get(self.url("/api/v1/uploads"), params=query, timeout=60)
            if answer.status_code != 200:
                raise Refused(f"HTTP {answer.status_code} {_code(answer)}")
            policy = answer.json()["data"]
            key = f"{policy['upload_dir']}/image.png"
            form = {
                "OSSAccessKeyId": policy["oss_access_key_id"],
                "Signature": policy["signature"],
                "policy": policy["policy"],
                "x-oss-object-acl": policy["x_oss_object_acl"],
                "x-oss-forbid-overwrite": policy["x_oss_forbid_overwrite"],
                "key": key,
                "success_action_status": "200",
            }
            done = requests.post(policy["upload_host"], data=form, files={"file": ("image.png", data)}, timeout=60)
            if done.status_code != 200:
                raise Refused(f"upload HTTP {done.status_code}")
            return f"oss://{key}"
        return ""


class AsyncTask(ImageUser):
    """A task that is submitted and polled (the server needs HOMESCOPE_ASYNC_TASKS=true): from the submit to the end."""

    @task
    def read(self) -> None:
        ask = next(self.asks)
        body = DIALECTS["native"].body(ask, self.model, {})
        hearing = Hearing("task", DIALECTS["native"], ask, len(body))
        with self.told(hearing):
            headers = {"x-dashscope-async": "enable", "content-type": "application/json"}
            submitted = self.session.post(self.url(NATIVE_PATH), data=body, headers=headers, timeout=60)
            if submitted.status_code != 200:
                raise Refused(f"HTTP {submitted.status_code} {_code(submitted)}")
            self.poll(submitted.json()["output"]["task_id"])

    def poll(self, task_id: str) -> None:
        """Raises Refused: it did not succeed."""
        while True:
            answer = self.session.get(self.url(f"/api/v1/tasks/{task_id}"), timeout=60).json()
            status = answer["output"]["task_status"]
            if status == "SUCCEEDED":
                return
            if status not in ("PENDING", "RUNNING"):
                raise Refused(f"task {status}")
            time.sleep(0.2)


class Mixed(ImageUser):
    """Of everything some: mostly streams, now and then several images."""

    @task(5)
    def stream(self) -> None:
        self.ask("mixed stream", DIALECTS["native-sse"], next(self.asks))

    @task(3)
    def whole(self) -> None:
        self.ask("mixed whole", DIALECTS["compatible"], next(self.asks))

    @task(1)
    def several(self) -> None:
        asks = list(itertools.islice(self.asks, 3))
        together = Ask(tuple(picture for ask in asks for picture in ask.images), asks[0].prompt, asks[0].max_tokens)
        self.ask("mixed three images", DIALECTS["native-sse"], together)
