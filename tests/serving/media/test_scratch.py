from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from serving.errors import Overloaded
from serving.media.scratch import Scratch

DYING = """
import asyncio, os, signal, sys
from pathlib import Path
from serving.media.scratch import Scratch

async def main():
    scratch = Scratch(Path(sys.argv[1]), 1 << 30)
    async with scratch.file("k") as (path, room):
        path.write_bytes(bytes(1000))
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.name != "lock"]


def left(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def killed_on(folder: Path) -> int:
    """A server that dies in the middle of its work; how it ended."""
    return subprocess.run([sys.executable, "-c", DYING, str(folder)], check=False, env=os.environ).returncode


async def test_a_file_lies_there_as_long_as_it_is_worked_on(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path / "scratch", 1000)
    await scratch.start()
    async with scratch.file("k") as (path, room):
        room(700)
        path.write_bytes(bytes(700))
        assert files(tmp_path) == [path]
        assert scratch.budget.free == 300
    assert files(tmp_path) == []
    assert scratch.budget.free == 1000
    await scratch.aclose()
    assert left(tmp_path / "scratch") == []


async def test_room_is_bounded_over_all_and_each_key_has_a_share() -> None:
    scratch = Scratch(None, 1000)
    async with scratch.file("a") as (_, first), scratch.file("a") as (_, second), scratch.file("b") as (_, other):
        first(500)
        second(300)
        with pytest.raises(Overloaded, match="other videos take the disk space") as raised:
            second(1)
        assert raised.value.retry_after == 5
        other(200)
        with pytest.raises(Overloaded):
            other(1)
    assert scratch.budget.free == 1000
    await scratch.aclose()


@pytest.mark.ring3
async def test_what_a_killed_server_left_is_cleared_away_and_what_a_live_one_has_is_not(tmp_path: Path) -> None:
    assert killed_on(tmp_path) == -9
    assert len(files(tmp_path)) == 1
    live, later = Scratch(tmp_path, 1000), Scratch(tmp_path, 1000)
    await live.start()
    assert files(tmp_path) == []
    async with live.file("k") as (path, _):
        path.write_bytes(b"x")
        await later.start()
        assert files(tmp_path) == [path]
    await live.aclose()
    await later.aclose()
    assert left(tmp_path) == []
