"""Locust as its users run it: real processes, before a real gateway that has a mock engine behind it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from benchmarks.processes import homescope, mock_engine, started, until_ready
from benchmarks.record import read
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
LOCUST = [sys.executable, "-m", "locust", "-f", str(ROOT / "benchmarks" / "locustfile.py"), "--image-size", "64"]

# Locust stops its users within 20 seconds; the rest is for a loaded machine.
pytestmark = [pytest.mark.ring3, pytest.mark.timeout(180)]

NAMES = {
    "NativeSync": {"native"},
    "NativeStream": {"native stream", "native stream first token"},
    "CompatibleStream": {"compatible stream", "compatible stream first token"},
    "MultiImage": {"four images", "four images first token"},
    "RepeatedImage": {"repeated image"},
    "UploadedImage": {"upload", "uploaded image"},
    "AsyncTask": {"task"},
    "Mixed": {"mixed stream", "mixed stream first token", "mixed whole", "mixed three images"},
}


@asynccontextmanager
async def gateway() -> AsyncGenerator[list[str], None]:
    """How Locust is told of one."""
    async with AsyncExitStack() as stack:
        engine, _ = await stack.enter_async_context(mock_engine("--ttft", "0.01", "--gap", "0.005", "--pieces", "5"))
        url, key, _ = await stack.enter_async_context(homescope(engine, HOMESCOPE_ASYNC_TASKS="true"))
        yield ["--host", url, "--api-key", key]


async def run(*arguments: str, folder: Path) -> str:
    """To its end; what it said."""
    process = await asyncio.create_subprocess_exec(
        *LOCUST, *arguments, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    words, _ = await process.communicate()
    assert process.returncode == 0, words.decode()
    return words.decode()


def counts(folder: Path) -> dict[str, tuple[int, int]]:
    """Requests and failures by name."""
    rows = json.loads((folder / "stats.json").read_text())
    return {row["name"]: (row["num_requests"], row["num_failures"]) for row in rows}


async def until(url: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Locust's statistics, once something holds of them."""
    async with aiohttp.ClientSession() as session, asyncio.timeout(60):
        while True:
            async with session.get(f"{url}/stats/requests") as response:
                found: dict[str, Any] = await response.json()
            if holds(found):
                return found
            await asyncio.sleep(0.2)


def requests(stats: dict[str, Any], name: str) -> int:
    return sum(row["num_requests"] for row in stats["stats"] if row["name"] == name)


async def test_no_user_has_a_failure(tmp_path: Path) -> None:
    """Eight users: one of each class, all of them at once."""
    async with gateway() as target:
        await run(*target, "--headless", "-u", "8", "-r", "8", "-t", "10s", "--stop-timeout", "20", "--only-summary",
                  "--json-file", "stats", folder=tmp_path)  # fmt: skip

    found = counts(tmp_path)
    assert set().union(*NAMES.values()) <= found.keys()
    assert {name: failed for name, (_, failed) in found.items() if failed} == {}
    assert min(asked for asked, _ in found.values()) >= 1


async def test_the_page_starts_a_swarm_counts_and_stops(tmp_path: Path) -> None:
    port = free_port()
    page, log = f"http://127.0.0.1:{port}", tmp_path / "locust.log"
    async with gateway() as target, aiohttp.ClientSession() as session:
        command = [*LOCUST, *target, "--web-host", "127.0.0.1", "--web-port", str(port), "NativeStream"]
        with started(command, {}, log) as process:
            await until_ready(page, process, log, within=60)
            async with session.get(page) as response:
                assert "text/html" in response.headers["content-type"]
            assert requests(await until(page, lambda stats: stats["state"] == "ready"), "native stream") == 0

            form = {"user_count": "2", "spawn_rate": "2", "host": target[1]}
            async with session.post(f"{page}/swarm", data=form) as response:
                assert (await response.json())["success"]
            running = await until(page, lambda stats: requests(stats, "native stream") >= 5)
            async with session.post(f"{page}/stop") as response:
                assert (await response.json())["success"]
            stopped = await until(page, lambda stats: stats["state"] == "stopped")

    assert running["user_count"] == 2
    assert running["errors"] == stopped["errors"] == []
    assert requests(stopped, "native stream") >= requests(running, "native stream")
    assert requests(stopped, "native stream first token") >= 5


async def test_two_workers_share_the_load_and_the_master_counts_it(tmp_path: Path) -> None:
    port = str(free_port())
    bound = ["--master-bind-host", "127.0.0.1", "--master-bind-port", port, "--expect-workers", "2"]
    load = ["--headless", "-u", "4", "-r", "4", "-t", "8s", "--stop-timeout", "20", "--only-summary"]
    async with gateway() as target:
        # The key stays with the workers: it is they who ask.
        host, key = target[:2], target[2:]
        worker = ["--worker", "--master-host", "127.0.0.1", "--master-port", port, *key, "--records", "r.jsonl"]
        runs: list[Awaitable[str]] = [run(*worker, folder=tmp_path) for _ in range(2)]
        master = run("--master", *bound, *load, *host, "--json-file", "stats", "NativeSync", folder=tmp_path)
        await asyncio.gather(master, *runs)

    kept = [read(tmp_path / f"r-{number}.jsonl")[1] for number in range(2)]
    assert all(kept)
    assert all(record.ok for records in kept for record in records)
    # What a worker did after its last report to the master, at most 3 s before its end, only its own file has.
    (asked, failed) = counts(tmp_path).pop("native")
    assert failed == 0
    assert 0 < asked <= sum(map(len, kept))
