from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import random
import secrets
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from serving.engine.diagnosis import PORT_TAKEN, Diagnosis, diagnose
from serving.engine.orphans import PARENT_PID
from serving.engine.plan import LaunchError, LaunchPlan
from serving.engine.progress import LogFile, Progress, Stages, State

HOST = "127.0.0.1"
PORTS = range(20_000, 30_000)
"""Below the range that Linux takes for outgoing connections, one of which could take a free port before vLLM does."""
PROBE_TIMEOUT = aiohttp.ClientTimeout(total=5)
STARTING_POLL_S = 0.2
SILENT_START = 10
"""A start that writes nothing to its log for so many times what a whole start takes is ended."""
TIDY_UP_S = 3.0
"""Given to the rest of the process group, once its leader has ended, to free shared memory."""


@dataclass(frozen=True, slots=True)
class Restarts:
    """When an engine that died is started again."""

    first_delay_s: float = 1.0
    max_delay_s: float = 30.0
    stable_after_s: float = 120.0
    """An engine that was ready for so long died of something new: counting begins anew."""
    give_up_after: int = 5
    """Deaths in a row without such a time between them. Before it was ever ready, the second one is the last."""
    watch_every_s: float = 2.0
    silent_s: float = 90.0
    """A ready engine that answers no health check for so long is ended."""
    stop_within_s: float = 15.0
    """Between SIGTERM and SIGKILL."""

    def delay_s(self, deaths: int) -> float:
        return min(self.max_delay_s, self.first_delay_s * 2.0 ** (deaths - 1))


class Launcher:
    """One vLLM server as a child process: started, watched, started again when it dies, and never left behind."""

    def __init__(
        self,
        plan: LaunchPlan,
        *,
        log_dir: Path,
        on_progress: Callable[[Progress], None] | None = None,
        port: int = 0,
        restarts: Restarts | None = None,
    ) -> None:
        """`port` 0 takes a free one. `on_progress` is called in the event loop, once for each stage."""
        self.plan = plan
        self.state = State.STOPPED
        self.api_key = secrets.token_urlsafe(24)
        """Asked for by the engine: other users of this machine reach its port too."""
        self.log = LogFile(log_dir)
        self._on_progress = on_progress or (lambda progress: None)
        self._wanted_port = port
        self._port = port
        self._restarts = restarts or Restarts()
        self._process: asyncio.subprocess.Process | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._session: aiohttp.ClientSession | None = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        """Temporary files of vLLM's own, which leaves sockets and rendezvous files behind at every end."""
        self._settled = asyncio.Event()
        self._failure: str | None = None
        self._began = time.monotonic()
        self._ready_at: float | None = None
        self._ever_ready = False
        self._stages = Stages()

    @property
    def base_url(self) -> str:
        """Of vLLM's OpenAI API. Fixed once the engine has been ready; before, a start may still move it."""
        return f"http://{HOST}:{self._port}/v1"

    @property
    def pid(self) -> int | None:
        """Of the server process, which leads the process group of everything that it starts."""
        return self._process.pid if self._process is not None else None

    async def start(self) -> None:
        """Returns once the process exists; `wait_ready` says when it answers. Raises `LaunchError`."""
        if self._supervisor is not None:
            return
        check(self.plan)
        self._session = aiohttp.ClientSession(headers={"authorization": f"Bearer {self.api_key}"})
        try:
            self._scratch = tempfile.TemporaryDirectory(prefix="engine-", ignore_cleanup_errors=True)
            await self._spawn()
        except OSError as error:
            await self.aclose()
            raise LaunchError(f"The engine cannot be started, it has no place for temporary files: {error}") from None
        except LaunchError:
            await self.aclose()
            raise
        self._supervisor = asyncio.create_task(self._supervise())

    async def wait_ready(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - the message needs it
        """Returns when the engine answers. Raises `LaunchError` when it never will, or not within `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._settled.wait()
        except TimeoutError:
            raise LaunchError(
                f"The engine was not ready within {timeout:.0f} s ({self.plan.summary}); its log: {self.log.path}"
            ) from None
        if self.state is not State.READY:
            raise LaunchError(self._failure or "The engine was stopped.")

    async def aclose(self) -> None:
        """Ends the engine and everything it started; returns when nothing of it runs any more."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            with suppress(asyncio.CancelledError):
                await self._supervisor
            self._supervisor = None
        await self._end()
        if self._session is not None:
            await self._session.close()
            self._session = None
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = None
        self.log.close()
        if self.state not in (State.FAILED, State.STOPPED):
            self._report(State.STOPPED, "stopped")
        self._settled.set()

    async def _spawn(self) -> None:
        self._began, self._ready_at, self._stages = time.monotonic(), None, Stages()
        if not self._ever_ready:
            self._port = _port(self._wanted_port)
        try:
            self.log.rotate()
            with self.log.path.open("ab") as log:
                self._process = await asyncio.create_subprocess_exec(
                    *self.plan.argv,
                    *("--host", HOST, "--port", str(self._port)),
                    env=self._environment(),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        except OSError as error:
            raise LaunchError(f"The engine cannot be started: {error}. Its log was to be {self.log.path}.") from None
        self._report(State.STARTING, f"starting vLLM: {self.plan.summary}")

    def _environment(self) -> dict[str, str]:
        scratch = self._scratch.name if self._scratch is not None else None
        changes = {"VLLM_API_KEY": self.api_key, "TMPDIR": scratch, PARENT_PID: str(os.getpid())}
        return environment_of(self.plan, **changes)

    async def _supervise(self) -> None:
        deaths = 0
        while True:
            returncode = await self._watch()
            self.state = State.RESTARTING
            self._settled.clear()
            stable = self._ready_at is not None and time.monotonic() - self._ready_at >= self._restarts.stable_after_s
            deaths = 1 if stable else deaths + 1
            await self._end()
            diagnosis = diagnose(self.log.tail(), returncode)
            if self._hopeless(diagnosis, deaths):
                return self._give_up(diagnosis, deaths)
            delay = self._restarts.delay_s(deaths)
            self._report(State.RESTARTING, f"the engine died: {diagnosis.cause}; starting it again in {delay:.0f} s")
            await asyncio.sleep(delay * random.uniform(0.8, 1.2))
            try:
                await self._spawn()
            except LaunchError as error:
                return self._fail(str(error))

    def _hopeless(self, diagnosis: Diagnosis, deaths: int) -> bool:
        if self._ever_ready:
            return deaths >= self._restarts.give_up_after
        if diagnosis.cause == PORT_TAKEN:
            return self._wanted_port != 0 or deaths >= self._restarts.give_up_after
        return diagnosis.hopeless or deaths >= 2

    async def _watch(self) -> int | None:
        """Until the process ends: its exit code, or None if it is silent for too long."""
        assert self._process is not None
        ended = asyncio.create_task(self._process.wait())
        last_sign = time.monotonic()
        try:
            while True:
                pause = self._restarts.watch_every_s if self.state is State.READY else STARTING_POLL_S
                if (await asyncio.wait({ended}, timeout=pause))[0]:
                    return ended.result()
                wrote = self.state is not State.READY and self._follow_log()
                answers = await self._answers()
                if wrote or answers:
                    last_sign = time.monotonic()
                if answers:
                    self._now_ready()
                elif time.monotonic() - last_sign > self._patience_s():
                    return None
        finally:
            ended.cancel()

    def _patience_s(self) -> float:
        return self._restarts.silent_s if self.state is State.READY else SILENT_START * self.plan.expected_start_s

    def _follow_log(self) -> bool:
        """Whether there was anything new in it."""
        before = self.log.size
        for line in self.log.new_lines():
            if stage := self._stages.of(line):
                self._report(State.STARTING, stage)
        return self.log.size > before

    async def _answers(self) -> bool:
        """Whether the engine's own loop is alive, and, before it is called ready, whether it serves its model."""
        assert self._session is not None
        paths = ("/health",) if self.state is State.READY else ("/health", "/v1/models")
        try:
            for path in paths:
                url = f"http://{HOST}:{self._port}{path}"
                async with self._session.get(url, timeout=PROBE_TIMEOUT) as response:
                    if response.status != 200:
                        return False
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False
        return True

    def _now_ready(self) -> None:
        if self.state is not State.READY:
            self._ever_ready, self._ready_at = True, time.monotonic()
            self._report(State.READY, f"ready: {self.plan.summary}")
            self._settled.set()

    def _give_up(self, diagnosis: Diagnosis, deaths: int) -> None:
        count = f"{deaths} times in a row" if deaths > 1 else "at its start"
        lines = "".join(f"\n  {line}" for line in diagnosis.evidence)
        self._fail(f"The engine died {count}: {diagnosis.cause}.{lines}\nIts log: {self.log.path}")

    def _fail(self, message: str) -> None:
        self._failure = message
        self._report(State.FAILED, message)
        self._settled.set()

    def _report(self, state: State, message: str) -> None:
        self.state = state
        self._on_progress(Progress(state, message, time.monotonic() - self._began, self.plan.expected_start_s))

    async def _end(self) -> None:
        """SIGTERM to the server, which ends its own children; then SIGKILL to whatever is left of the group."""
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            process.terminate()
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), self._restarts.stop_within_s)
        if process.returncode is not None:
            await _group_ended(process.pid, TIDY_UP_S)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        await _group_ended(process.pid, TIDY_UP_S)
        self._process = None


def check(plan: LaunchPlan) -> None:
    """Says what can be known to fail without waiting for it. Raises `LaunchError`."""
    for module in plan.modules:
        if importlib.util.find_spec(module) is None:
            raise LaunchError(
                f"The embedded engine needs the Python package {module}, which is not installed here: `make setup` "
                "installs it, or name a running vLLM with --engine-url."
            )
    if plan.folder is not None:
        try:
            _check_weights(plan.folder)
        except OSError as error:
            raise LaunchError(
                f"{plan.folder} cannot be read: {error.strerror or error}; name another folder in HOMESCOPE_MODEL, or "
                "let the user of the server read this one."
            ) from None


def _check_weights(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise LaunchError(
            f"There is no model in {folder} (no config.json): name its folder, or a model on the Hugging "
            "Face hub, in HOMESCOPE_MODEL."
        )
    index = folder / "model.safetensors.index.json"
    try:
        shards = sorted(set(json.loads(index.read_bytes())["weight_map"].values())) if index.is_file() else []
        lacking = [name for name in shards if not (folder / name).is_file()]
    except (ValueError, KeyError, AttributeError, TypeError):
        raise LaunchError(f"{index} cannot be read: download the weights again.") from None
    if lacking:
        raise LaunchError(
            f"{len(lacking)} of {len(shards)} files of weights are not in {folder}, {lacking[0]} first: the download "
            "is not complete, run it again."
        )


def environment_of(plan: LaunchPlan, **changes: str | None) -> dict[str, str]:
    """This process's environment with the plan's changes and `changes`; None takes a name away."""
    all_changes = {**plan.env, **changes}
    environment = {name: value for name, value in os.environ.items() if name not in all_changes}
    source = Path(__file__).parents[2]
    if "site-packages" not in source.parts:  # run from a source tree, which need not be installed
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(source), environment.get("PYTHONPATH"))))
    return environment | {name: value for name, value in all_changes.items() if value is not None}


def _port(wanted: int) -> int:
    """`wanted`, or a free port for 0. Raises `LaunchError` where it is taken."""
    if wanted:
        if not _free(wanted):
            raise LaunchError(f"Port {wanted} is taken by another program: choose another, or 0 for a free one.")
        return wanted
    for port in random.sample(PORTS, 100):
        if _free(port):
            return port
    raise LaunchError(f"No free port found between {PORTS.start} and {PORTS.stop}.")


def free_port() -> int:
    """Raises `LaunchError` where there is none."""
    return _port(0)


def _free(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError:
            return False
        return True


async def _group_ended(group: int, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while _runs(group) and time.monotonic() < deadline:  # noqa: ASYNC110 - other processes change it
        await asyncio.sleep(0.02)


def _runs(group: int) -> bool:
    """Whether a process of this group does; zombies, which stay where nobody reaps orphans, do not."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it ended meanwhile
            state, _, of_group = stat.read_text().rpartition(")")[2].split()[:3]
            if int(of_group) == group and state != "Z":
                return True
    return False
