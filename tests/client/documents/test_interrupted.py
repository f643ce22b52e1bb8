"""What is left of a search that did not come to its end."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from client.documents import PageRead, figures_of
from tests.client.documents.drawing import bars, pdf, text

pytestmark = pytest.mark.timeout(180)  # each search starts a process, which imports for seconds on a busy machine

SEARCH = """
import asyncio, sys
from pathlib import Path
from client.documents import PageRead, figures_of

async def main():
    async for event in figures_of(Path(sys.argv[1]), Path(sys.argv[2])):
        if isinstance(event, PageRead):
            print(event.page, flush=True)

asyncio.run(main())
"""


@contextmanager
def no_file_over(size: int) -> Iterator[None]:
    """The kernel refuses to write on, as on a full disk, here and in processes started here."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def pages_and_images(path: Path, folder: Path) -> tuple[list[int], list[Path]]:
    events = [event async for event in figures_of(path, folder) if isinstance(event, PageRead)]
    return [event.page for event in events], [figure.image for event in events for figure in event.figures]


@pytest.mark.ring3
async def test_an_image_that_cannot_be_written_ends_the_search_and_leaves_no_part_of_it(tmp_path: Path) -> None:
    path, folder = pdf(tmp_path / "a.pdf", text, bars, text), tmp_path / "images"
    with pytest.raises(OSError, match="images") as raised, no_file_over(1000):
        await pages_and_images(path, folder)
    assert raised.value.errno == errno.EFBIG
    assert list(folder.iterdir()) == []
    told, images = await pages_and_images(path, folder)
    assert told == [1, 2, 3]
    assert list(folder.iterdir()) == images


@pytest.mark.ring3
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
async def test_an_interrupted_search_leaves_no_process_and_no_torn_image(tmp_path: Path, sent: signal.Signals) -> None:
    path, folder = pdf(tmp_path / "a.pdf", *[bars, text] * 20), tmp_path / "images"
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SEARCH, str(path), str(folder),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert running.stdout is not None
    assert await running.stdout.readline() == b"1\n"
    workers = psutil.Process(running.pid).children()
    assert len(workers) == 1
    running.send_signal(sent)
    assert await running.wait() != 0
    _, alive = await asyncio.to_thread(psutil.wait_procs, workers, 60)
    assert alive == []
    for image in folder.glob("*.png"):
        assert hashlib.sha256(image.read_bytes()).hexdigest()[:8] in image.name
    told, images = await pages_and_images(path, folder)
    assert told == list(range(1, 41))
    assert len(images) == 20
    assert {image.name for image in folder.iterdir()} == {image.name for image in images}
