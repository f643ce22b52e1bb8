from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import json
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from client.documents.models import Event, Figure, Opened, PageFailed, PageRead, UnreadableDocument
from client.errors import ConfigurationError

FIGURE_DPI = 200
PATIENCE_S = 180.0
"""For one page: the layout model takes half a second, and minutes on a machine that is busy with something else."""
_MOST_CRASHES = 5
_LONGEST_LINE = 64 * 2**20
_NEEDED = ("pypdfium2", "cv2", "numpy", "rapid_layout", "rapidocr")


@dataclass(frozen=True, slots=True)
class _Task:
    path: Path
    folder: Path
    password: str
    dpi: float
    patience: float

    def line(self, first: int) -> bytes:
        task = {"path": str(self.path), "folder": str(self.folder), "password": self.password, "dpi": self.dpi}
        return json.dumps(task | {"first": first}).encode() + b"\n"


async def digest_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal, read in pieces. Raises OSError."""

    def read() -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    return await asyncio.to_thread(read)


async def figures_of(
    path: Path, folder: Path, *, password: str = "", dpi: float = FIGURE_DPI, patience: float = PATIENCE_S
) -> AsyncGenerator[Event, None]:
    """Searches a PDF page by page for figures and tables and saves each as a PNG file.

    The work is done in a process of its own, in memory that does not grow with the pages. Where a page crashes or
    hangs it, that page is reported and a new process goes on after it.

    Args:
        path: the PDF.
        folder: where the images go; it is made. The same document gives the same names.
        password: of an encrypted document.
        dpi: resolution of the images, dots per inch.
        patience: seconds that one page may take.

    Raises:
        UnreadableDocument: no PDF, damaged, encrypted with another password, or gone.
        ConfigurationError: the extra `documents` is not installed.
        OSError: an image cannot be written, as on a full disk; those of earlier pages are whole.
    """
    check_installed()
    await asyncio.to_thread(_prepare, path, folder)
    task, first, crashes, opened = _Task(path, folder, password, dpi, patience), 1, 0, False
    while True:
        reading = _Process(task, first)
        async for event in reading.events():
            if not isinstance(event, Opened) or not opened:
                yield event
            opened = opened or isinstance(event, Opened)
        if reading.ended:
            return
        crashes += 1
        if crashes >= _MOST_CRASHES or (reading.begun is None and reading.told is None):
            raise UnreadableDocument(f"{path}: it could not be read: {reading.reason}")
        if reading.begun is not None:
            yield PageFailed(reading.begun, reading.reason)
        first = (reading.begun or reading.told or first) + 1


def check_installed() -> None:
    """Raises ConfigurationError where a package of the extra `documents` is missing."""
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        raise ConfigurationError(f"reading PDFs needs {', '.join(missing)}: pip install 'homescope[documents]'")


def _prepare(path: Path, folder: Path) -> None:
    if not path.is_file():
        raise UnreadableDocument(f"{path} is not there, or is not a file")
    folder.mkdir(parents=True, exist_ok=True)


class _Process:
    """One run of the worker. `ended`: it came to the end of the document; else `begun` is the page it died on, None
    where it died between two, and `told` the last that it was done with."""

    def __init__(self, task: _Task, first: int) -> None:
        self.task, self.first = task, first
        self.begun: int | None = None
        self.told: int | None = None
        self.ended, self.reason = False, ""

    async def events(self) -> AsyncGenerator[Event, None]:
        with tempfile.TemporaryFile() as complaints:
            async with aclosing(self._run(complaints)) as events:
                async for event in events:
                    yield event
            if not self.ended and not self.reason:
                self.reason = f"reading the page ended with {_last_line(complaints) or 'a crash of the PDF library'}"

    async def _run(self, complaints: IO[bytes]) -> AsyncGenerator[Event, None]:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "client.documents.worker",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=complaints, limit=_LONGEST_LINE,
            start_new_session=True,  # Ctrl-C is for the parent to handle
        )  # fmt: skip
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            with suppress(BrokenPipeError, ConnectionResetError):
                child.stdin.write(self.task.line(self.first))
                await child.stdin.drain()
            while line := await asyncio.wait_for(child.stdout.readline(), self.task.patience):
                if (event := self._event(json.loads(line))) is not None:
                    yield event
            self.ended = await child.wait() == 0
        except TimeoutError:
            self.reason = f"the page took longer than {self.task.patience:.0f} s"
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()

    def _event(self, said: dict[str, Any]) -> Event | None:
        kind = said["event"]
        if kind == "unreadable":
            raise UnreadableDocument(f"{self.task.path}: {said['reason']}")
        if kind == "stopped":
            raise OSError(said["errno"], said["reason"], said["path"])
        if kind == "opened":
            return Opened(said["pages"])
        if kind == "begun":
            self.begun = said["page"]
            return None
        self.begun, self.told = None, said["page"]
        if kind == "failed":
            return PageFailed(said["page"], said["reason"])
        return PageRead(said["page"], tuple(_figure(each) for each in said["figures"]))


def _last_line(file: IO[bytes]) -> str:
    file.seek(0)
    lines = file.read()[-2000:].decode(errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else ""


def _figure(said: dict[str, Any]) -> Figure:
    return Figure(**said | {"box": tuple(said["box"]), "image": Path(said["image"])})
