"""What a kill -9 finds in flight is not answered twice: the batch against a homescope that is a process of its own."""

from __future__ import annotations

import asyncio
import io
import json
import os
import random
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from PIL import Image

from client.batch import Batch
from client.ledger import Ledger
from client.models import Job
from client.session import Session
from client.sources import walk
from tests.client import server as replies
from tests.client.conftest import Folder, png
from tests.client.server import Scripted
from tests.ports import free_port

pytestmark = pytest.mark.timeout(120)  # four starts of Python, each of which takes seconds on a busy machine
ROOT = Path(__file__).parents[2]
JOB = Job("?")


@dataclass
class Relay:
    """Carries connections to `port`, and keeps back the answers of the model while `open` is not set."""

    port: int
    open: asyncio.Event = field(default_factory=asyncio.Event)
    kept: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            there, back = await asyncio.open_connection("127.0.0.1", self.port)
            await asyncio.gather(self._pass(reader, back), self._pass(there, writer))
        writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                if b'"finish_reason"' in data and not self.open.is_set():
                    self.kept.release()
                    await self.open.wait()
                writer.write(data)
                await writer.drain()
        writer.close()


@dataclass
class Homescope:
    """The server's process, its engine's notes, and a relay before it."""

    folder: Path
    port: int
    relay: Relay
    url: str
    process: Process | None = None

    async def start(self) -> None:
        (self.folder / "data").mkdir(exist_ok=True)
        command = ["-m", "tests.client.homescope_process", str(self.folder / "data"), str(self.port), str(self.notes)]
        self.process = await asyncio.create_subprocess_exec(sys.executable, *command, cwd=ROOT, stdout=DEVNULL)
        async with httpx.AsyncClient(trust_env=False) as http:
            while True:
                with suppress(httpx.TransportError):
                    if (await http.get(f"http://127.0.0.1:{self.port}/readyz")).status_code == 200:
                        return
                await asyncio.sleep(0.05)

    async def kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    @property
    def notes(self) -> Path:
        return self.folder / "notes"

    @property
    def asked(self) -> int:
        return len(self.notes.read_text().splitlines())

    @property
    def key(self) -> str:
        return (self.folder / "data" / "key").read_text()


@pytest.fixture
async def homescope(tmp_path: Path, ring3: None) -> AsyncGenerator[Homescope, None]:
    port = free_port()
    relay = Relay(port)
    listener = await asyncio.start_server(relay.carry, "127.0.0.1", 0)
    homescope = Homescope(tmp_path, port, relay, f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}")
    try:
        await homescope.start()
        yield homescope
    finally:
        relay.open.set()
        await homescope.kill()
        listener.close()


@pytest.fixture
def mixed(charts: Folder) -> Path:
    """Two images that go inside their requests, and two that are uploaded."""
    folder = charts(2)
    for number in range(2):
        noise = Image.frombytes("RGB", (96, 96), random.Random(number).randbytes(96 * 96 * 3))
        stream = io.BytesIO()
        noise.save(stream, "PNG")
        (folder / f"noise-{number}.png").write_bytes(stream.getvalue())
    return folder


async def batch(homescope: Homescope, folder: Path) -> Process:
    named = {"DASHSCOPE_HTTP_BASE_URL": homescope.url, "DASHSCOPE_API_KEY": homescope.key, "PYTHONPATH": str(ROOT)}
    options = ["--prompt", "?", "--model", "qwen3-vl-30b", "--out", "out.jsonl", "--concurrency", "4"]
    command = [sys.executable, "-m", "client", "batch", str(folder), *options]
    return await asyncio.create_subprocess_exec(
        *command, cwd=homescope.folder, env=os.environ | named, stdout=PIPE, stderr=PIPE
    )


def states(folder: Path) -> Counter[str]:
    return Counter(json.loads(line)["state"] for line in (folder / "out.jsonl").read_text("utf-8").splitlines())


async def test_an_answer_on_its_way_to_a_killed_client_is_not_asked_again(homescope: Homescope, mixed: Path) -> None:
    first = await batch(homescope, mixed)
    for _ in range(4):
        await homescope.relay.kept.acquire()
    first.kill()
    await first.communicate()
    assert homescope.asked == 4
    assert not states(homescope.folder)
    homescope.relay.open.set()
    again = await batch(homescope, mixed)
    _, errors = await again.communicate()
    assert again.returncode == 0, errors
    assert states(homescope.folder) == {"done": 4}
    assert homescope.asked == 4, "paid for twice"


async def test_nor_that_of_a_killed_server(homescope: Homescope, mixed: Path) -> None:
    running = await batch(homescope, mixed)
    for _ in range(4):
        await homescope.relay.kept.acquire()
    await homescope.kill()
    # What was on its way is lost with it; the batch asks again until the server is back.
    homescope.relay.open.set()
    await homescope.start()
    _, errors = await running.communicate()
    assert running.returncode in (0, 2), errors
    if running.returncode:
        again = await batch(homescope, mixed)
        _, errors = await again.communicate()
        assert again.returncode == 0, errors
    assert states(homescope.folder) == {"done": 4}
    assert homescope.asked == 4, "paid for twice"


async def pipeline(homescope: Homescope, *arguments: str) -> Process:
    named = {"DASHSCOPE_HTTP_BASE_URL": homescope.url, "DASHSCOPE_API_KEY": homescope.key, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "client", "pipeline", *arguments, "--data", str(homescope.folder / "pipeline")]
    return await asyncio.create_subprocess_exec(*command, env=os.environ | named, stdout=PIPE, stderr=PIPE)


async def test_nor_that_of_a_killed_worker(homescope: Homescope, mixed: Path) -> None:
    work = ("work", "--until-empty", "--lease", "4", "--concurrency", "4")
    submitting = await pipeline(homescope, "submit", str(mixed), "--prompt", "?", "--model", "qwen3-vl-30b")
    _, errors = await submitting.communicate()
    assert submitting.returncode == 0, errors
    first = await pipeline(homescope, *work)
    for _ in range(4):
        await homescope.relay.kept.acquire()
    first.kill()
    await first.communicate()
    assert homescope.asked == 4
    homescope.relay.open.set()
    again = await pipeline(homescope, *work)
    _, errors = await again.communicate()
    assert again.returncode == 0, errors
    assert homescope.asked == 4, "paid for twice"


async def ran(server: Scripted, folder: Path, out: Path, *, retry_failed: bool = False, job: Job = JOB) -> Batch:
    async with Session(server.url, "sk-test") as session:
        with Ledger(out, job) as ledger:
            batch = Batch(session, job, ledger, retry_failed=retry_failed)
            await batch.run(walk([str(folder)]))
    return batch


def keys(server: Scripted) -> list[str]:
    return [call.headers["idempotency-key"] for call in server.calls]


async def test_what_is_being_answered_is_waited_for(server: Scripted, charts: Folder, tmp_path: Path) -> None:
    server.script = [replies.refusal(409, "IdempotencyKey.InFlight", "later", retry_after="0.01")] * 2
    batch = await ran(server, charts(1), tmp_path / "out.jsonl")
    assert (batch.totals.done, batch.totals.failed) == (1, 0)
    assert len(server.calls) == 3
    assert len(set(keys(server))) == 1
    assert batch.pace.limit >= 4, "it is no sign of too much"


async def test_a_wrong_answer_is_not_repeated_to_who_asks_anew(
    server: Scripted, charts: Folder, tmp_path: Path
) -> None:
    folder, job = charts(1), Job("?", schema={"type": "object"})
    server.default = lambda call: replies.answer("no JSON")
    for _ in range(2):
        await ran(server, folder, tmp_path / "out.jsonl", retry_failed=True, job=job)
    assert len(server.calls) == 4, "each with its repair"
    assert len(set(keys(server))) == 4


async def test_another_ledger_wants_answers_of_its_own(server: Scripted, charts: Folder, tmp_path: Path) -> None:
    folder = charts(1)
    for name in ("one.jsonl", "two.jsonl"):
        await ran(server, folder, tmp_path / name)
    assert len(set(keys(server))) == 2


async def test_an_upload_that_is_gone_is_made_again(server: Scripted, tmp_path: Path) -> None:
    server.storing()
    image, job = png(1), Job("?")
    with Ledger(tmp_path / "out.jsonl", job) as ledger:
        async with Session(server.url, "sk-test", delivery="upload") as first:
            first.keep_uploads(ledger)
            await first.ask(image, "?")
        server.script = [replies.refusal(400, "InvalidParameter", "no such file")]
        async with Session(server.url, "sk-test", delivery="upload") as second:
            second.keep_uploads(ledger)
            assert (await second.ask(image, "?")).text
    addresses = [call.content[0]["image"] for call in server.calls]
    assert addresses[0] == addresses[1] != addresses[2]
    assert len(server.uploads) == 2
