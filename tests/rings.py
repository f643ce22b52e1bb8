"""Which ring a test belongs to, told from what it uses, and held to that while it runs.

One: pure functions. Two: the app over a scripted engine, in this process. Three: what listens on a socket or starts a
process. Four: real vLLM, clients that install something, containers. The first two are for every save of a file, so
nothing in them waits for another process or is refused a port. What listens or starts a process asks for the fixture
`ring3`, itself or by another fixture, or has the mark of that name; a test that does it and has neither fails.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Any

import pytest

TESTS = Path(__file__).parent
ALL = 4
RING_FOUR = frozenset({"engine", "conformance", "deploy"})
"""Marks."""
BEYOND = {
    2: tuple(TESTS / name for name in ("conformance", "deploy", "engine", "serving/demo/training")),
    3: tuple(TESTS / name for name in ("deploy", "engine")),
}
"""Folders with nothing in the first so many rings, which are not even imported for those: torch alone takes seconds."""
PROCESSES = frozenset({"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"})
TOOLS = frozenset({"cc", "fc-list", "gcc", "git", "ld", "ldconfig", "nvidia-smi", "uname"})
"""What answers and ends: the standard library and matplotlib ask it about the machine, in whichever test is the first
to need it, and a record of measurements about the tree."""


def ring_of(item: pytest.Item) -> int:
    """2 is one or two: nothing tells a pure function."""
    marks = {mark.name for mark in item.iter_markers()}
    if marks & RING_FOUR:
        return 4
    return 3 if "ring3" in marks or "ring3" in getattr(item, "fixturenames", ()) else 2


def beyond(path: Path, rings: int) -> bool:
    """Whether nothing below `path` belongs to the first `rings` rings."""
    return path in BEYOND.get(rings, ())


def select(items: list[pytest.Item], rings: int) -> list[pytest.Item]:
    """Keeps those of the first `rings` rings in the list. Returns the others."""
    others = [item for item in items if ring_of(item) > rings]
    items[:] = [item for item in items if ring_of(item) <= rings]
    return others


def slow_first(items: list[pytest.Item]) -> None:
    """Puts files first whose tests may take longest: what begins last must not keep one process while others rest."""
    longest: dict[Path, float] = {}
    for item in items:
        mark = item.get_closest_marker("timeout")
        longest[item.path] = max(longest.get(item.path, 0), mark.args[0] if mark else 0)
    items.sort(key=lambda item: -longest[item.path])


class Guard:
    """Notices what only ring three may do. Python tells it by audit events, from any thread."""

    def __init__(self) -> None:
        self._watching = False
        self._seen: list[str] = []
        sys.addaudithook(self._heard)

    def begin(self, ring: int) -> None:
        """A phase of a test of this ring begins: not its teardown, in which fixtures of many tests may end."""
        self._seen.clear()
        self._watching = ring < 3

    def end(self) -> list[str]:
        """What was done in the phase and is not allowed."""
        self._watching = False
        return list(self._seen)

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._watching:
            return
        if event in PROCESSES and not _is_tool(arguments):
            self._seen.append(f"{event} {arguments[:2]}")
        elif event == "socket.bind":
            self._seen.append(f"{event} {arguments[1]}")


def _is_tool(arguments: Iterable[Any]) -> bool:
    """Of a process that is about to be started."""
    program = next(iter(arguments), None)
    return isinstance(program, str | PurePath) and PurePath(program).name in TOOLS
