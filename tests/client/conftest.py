from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest
from PIL import Image

from tests.client.server import Scripted

Folder: TypeAlias = Callable[[int], Path]


def png(number: int = 0, size: tuple[int, int] = (12, 10), kind: str = "PNG") -> bytes:
    """A small image whose bytes differ from those of every other number."""
    stream = io.BytesIO()
    Image.new("RGB", size, (number % 256, number // 256 % 256, 80)).save(stream, kind)
    return stream.getvalue()


@pytest.fixture(scope="session")
def _listening(ring3: None) -> Iterator[Scripted]:
    with Scripted().running() as scripted:
        yield scripted


@pytest.fixture
def server(_listening: Scripted) -> Iterator[Scripted]:
    """A scripted server on a real port, with nothing scripted yet. The port is the same for all tests."""
    yield _listening
    _listening.gate.set()
    _listening.forget()


@pytest.fixture
def charts(tmp_path: Path) -> Folder:
    """Makes a folder of so many images: chart-1.png, chart-2.png, ..."""

    def make(count: int) -> Path:
        folder = tmp_path / "charts"
        folder.mkdir()
        for number in range(1, count + 1):
            (folder / f"chart-{number}.png").write_bytes(png(number))
        return folder

    return make
