"""The command as a process of its own, ended in the ways that processes end."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from threading import Semaphore
from typing import Any, TypeAlias

import pytest

from client.models import Job
from tests.client import server as replies
from tests.client.conftest import Folder
from tests.client.server import Call, Scripted

Start: TypeAlias = Callable[..., "subprocess.Popen[str]"]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def start(server: Scripted, tmp_path: Path, ring3: None) -> Iterator[Start]:
    """Starts `homescope batch charts` in the test's folder."""
    started: list[subprocess.Popen[str]] = []

    def begin(*options: str, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        named = {"DASHSCOPE_HTTP_BASE_URL": server.url, "DASHSCOPE_API_KEY": "sk-test", "PYTHONPATH": str(ROOT)}
        command = [*before, sys.executable, "-m", "client", "batch", "charts", "--prompt", "?"]
        if "--out" not in options:
            command += ["--out", "out.jsonl"]
        process = subprocess.Popen(
            [*command, *options],
            cwd=tmp_path,
            env=os.environ | named,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def await_requests(server: Scripted, process: subprocess.Popen[str], count: int) -> None:
    for _ in range(count):
        if not server.arrived.acquire(timeout=20):
            process.kill()
            pytest.fail(f"no request came; the command said: {process.communicate()}")


def lines(folder: Path) -> list[Any]:
    return [json.loads(line) for line in (folder / "out.jsonl").read_text("utf-8").splitlines()]


def committed(folder: Path) -> set[str]:
    """Keys that the ledger of a killed run holds as done."""
    try:
        with closing(sqlite3.connect(folder / "out.jsonl.ledger")) as database:
            return {key for (key,) in database.execute("SELECT key FROM states WHERE state = 'done'")}
    except sqlite3.OperationalError:
        return set()  # killed before it had made its table


def test_kill_at_any_moment(server: Scripted, charts: Folder, tmp_path: Path, start: Start) -> None:
    count, dice, job = 40, random.Random(), Job("?")
    charts(count)

    def no_more_than_few(call: Call) -> replies.Reply:
        if len(server.calls) >= few:
            server.gate.clear()  # or a slow killer would find all of them answered
        return replies.answer("seen")

    server.default = no_more_than_few
    for _ in range(3):
        before, few = committed(tmp_path), dice.randint(5, 9)
        server.calls.clear()
        server.gate.set()
        process = start("--concurrency", "3", "--quiet")
        await_requests(server, process, few)
        process.kill()
        process.communicate()
        assert not before & {job.key(call.digest) for call in server.calls}, "asked again what was done"
        assert before <= committed(tmp_path), "forgot what was done"
        server.arrived = Semaphore(0)
    before, few = committed(tmp_path), count + 1
    assert 0 < len(before) < count
    server.calls.clear()
    server.gate.set()
    final = start("--concurrency", "8")
    out, errors = final.communicate(timeout=25)
    assert final.returncode == 0, errors
    assert f"{count} files: {count} done, 0 failed, 0 skipped ({len(before)} of them in an earlier run)" in out
    assert len({job.key(call.digest) for call in server.calls} - before) == count - len(before)
    assert not before & {job.key(call.digest) for call in server.calls}
    records = lines(tmp_path)
    assert Counter(record["state"] for record in records) == {"done": count}
    assert len({record["file"] for record in records}) == count


def test_ctrl_c_finishes_what_is_in_flight(server: Scripted, charts: Folder, tmp_path: Path, start: Start) -> None:
    charts(20)
    server.gate.clear()
    process = start("--concurrency", "3")
    await_requests(server, process, 3)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert "stopping: finishing 3 in flight" in process.stderr.readline()
    server.gate.set()
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "3 files: 3 done" in out
    assert "run the same command again to go on" in out
    assert len(lines(tmp_path)) == len(server.calls) == 3


def test_ctrl_c_twice_drops_it(server: Scripted, charts: Folder, tmp_path: Path, start: Start) -> None:
    charts(5)
    server.gate.clear()
    process = start("--concurrency", "3")
    await_requests(server, process, 3)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "interrupted" in errors
    assert "Traceback" not in errors
    assert lines(tmp_path) == []


def test_a_second_run_is_refused(server: Scripted, charts: Folder, start: Start) -> None:
    charts(3)
    server.gate.clear()
    first = start()
    await_requests(server, first, 1)
    second = start()
    _, errors = second.communicate(timeout=20)
    assert second.returncode == 2
    assert "another run is writing out.jsonl.ledger: let it finish" in errors
    assert errors.count("\n") == 1
    server.gate.set()
    assert first.wait(20) == 0


def _may_mount() -> bool:
    try:
        probe = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
        return subprocess.run(probe, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not _may_mount(), reason="needs a file system of its own, which this machine does not allow")
def test_a_full_disk_loses_no_answer(server: Scripted, charts: Folder, tmp_path: Path, start: Start) -> None:
    charts(60)
    server.default = lambda call: replies.answer(random.Random(call.digest).randbytes(96_000).hex())
    (tmp_path / "small").mkdir()
    script = 'mount -t tmpfs -o size=9m tmpfs small && "$@"; code=$?; cp small/* kept/; exit $code'
    (tmp_path / "kept").mkdir()
    # What is in flight has to fit into the reserve: each answer is 192 kB here.
    process = start(
        "--out", "small/out.jsonl", "--concurrency", "4", before=("unshare", "-rm", "sh", "-c", script, "sh")
    )
    _, errors = process.communicate(timeout=25)
    assert process.returncode == 2, errors
    assert "no space left on the disk of small/out.jsonl" in errors
    assert "Traceback" not in errors
    for path in (tmp_path / "kept").glob("out.jsonl.*"):
        path.rename(tmp_path / path.name)
    answered = len(server.calls)
    assert 0 < answered < 60
    process = start("--quiet")
    _, errors = process.communicate(timeout=25)
    assert process.returncode == 0, errors
    assert len(server.calls) == 60, "every answer that came before the disk was full was kept"
    assert len(lines(tmp_path)) == 60
