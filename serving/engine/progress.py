from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

KEPT_LOGS = 5

STAGES = (
    (re.compile(r"non-default args"), "reading the model's configuration"),
    (re.compile(r"Initializing a V1 LLM engine"), "starting the engine"),
    (re.compile(r"Starting to load model|Downloading|Time spent downloading"), "loading the weights"),
    (re.compile(r"Loading weights took|Model loading took"), "preparing the cache and warming up"),
    (
        re.compile(r"Dynamo bytecode|Compiling a graph|Capturing CUDA graphs|AOT compil"),
        "compiling, kept for the next start",
    ),
    (re.compile(r"Starting vLLM server"), "opening the port"),
)
"""Lines of vLLM's log that open a stage, in the order of a start."""


class State(StrEnum):
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Progress:
    """One line about the engine for whoever watches it start."""

    state: State
    message: str
    elapsed_s: float
    """Since this start began."""
    expected_s: float
    """What a whole start takes on a machine like this one."""


class Stages:
    """Which stage of its start vLLM's log has reached; a stage is reported once, and none after a later one."""

    def __init__(self) -> None:
        self._reached = 0

    def of(self, line: str) -> str | None:
        """The stage that `line` opens."""
        for number, (opening, stage) in enumerate(STAGES[self._reached :], self._reached + 1):
            if opening.search(line):
                self._reached = number
                return stage
        return None


class LogFile:
    """The log of the running engine: `engine.log` in a folder, those of earlier starts beside it as `engine.1.log`.

    It is read through a handle of its own, so that it is still the same one when somebody deletes it, or when a second
    server on the same data folder moves it aside for its own.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "engine.log"
        self.size = 0
        """Bytes read of it so far."""
        self._rest = b""
        self._file: BinaryIO | None = None

    def rotate(self) -> None:
        """Makes room for a new start. Raises OSError where the folder cannot be written."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        names = [self.path, *(self.path.with_name(f"engine.{n}.log") for n in range(1, KEPT_LOGS))]
        for newer, older in reversed(list(pairwise(names))):
            if newer.exists():
                newer.replace(older)
        self.path.touch(mode=0o600)
        self.close()
        self._file = self.path.open("rb")
        self.size, self._rest = 0, b""

    def new_lines(self) -> Iterator[str]:
        """The lines written since the last call; an unfinished one waits for its end."""
        assert self._file is not None
        self._file.seek(self.size)
        text = self._file.read()
        self.size += len(text)
        *lines, self._rest = (self._rest + text).split(b"\n")
        return (line.decode(errors="replace") for line in lines)

    def tail(self, limit: int = 262_144) -> list[str]:
        """The last lines, at most `limit` bytes of them."""
        assert self._file is not None
        self._file.seek(max(0, self._file.seek(0, 2) - limit))
        return self._file.read().decode(errors="replace").splitlines()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


PREFIX = re.compile(r"^(\(\S+ pid=\d+\) )?(?:(?:ERROR|WARNING|INFO|CRITICAL) \d\S* \S+ (?:\[[^\]]*\] ?)?)?")
FAILURE = re.compile(r"^\s*(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Exit)\b.*|.*\berror: .*|^Fatal .*|^Killed.*")
CONSEQUENCE = re.compile(r"Engine core initialization failed|EngineDeadError|WorkerProc initialization failed")


def last_words(lines: Iterable[str], limit: int = 4) -> list[str]:
    """The lines that say why an engine died: its errors without what only follows from them, else its last lines."""
    plain = [PREFIX.sub("", line).strip() for line in lines]
    plain = [line for line in plain if line]
    errors = [line for line in plain if FAILURE.match(line)]
    causes = [line for line in errors if not CONSEQUENCE.search(line)]
    return [line[:300] for line in list(dict.fromkeys(causes or errors or plain))[-limit:]]
