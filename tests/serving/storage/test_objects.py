from __future__ import annotations

import asyncio
import hashlib
import os
import resource
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from serving.errors import StorageUnavailable
from serving.exchange import ClientGone
from serving.storage import objects
from serving.storage.objects import RESERVE, STAGED_FOR_S, ObjectNotFound, Objects, ObjectTooLarge

MIB = 1 << 20


async def pieces(*given: bytes | Exception) -> AsyncGenerator[bytes, None]:
    for piece in given:
        if isinstance(piece, Exception):
            raise piece
        yield piece


async def whole(store: Objects, name: str, start: int = 0, end: int | None = None) -> bytes:
    return b"".join([piece async for piece in store.read(name, start, end)])


def lying_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
async def store(tmp_path: Path) -> AsyncGenerator[Objects, None]:
    store = objects.at(None, tmp_path)
    await store.start()
    yield store
    await store.aclose()


async def test_what_was_put_is_read(store: Objects) -> None:
    stored = await store.put("a/b", pieces(b"abc", b"", b"def"))
    assert (stored.name, stored.size, stored.md5) == ("a/b", 6, hashlib.md5(b"abcdef").digest())
    assert await whole(store, "a/b") == await store.bytes("a/b") == b"abcdef"
    assert await store.size("a/b") == 6


async def test_what_needs_no_sum_gets_none(store: Objects) -> None:
    stored = await store.put("a/b", pieces(b"abc", b"def"), summed=False)
    assert (stored.size, stored.md5, await store.bytes("a/b")) == (6, b"", b"abcdef")


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(2, None, b"cdef"), (2, 4, b"cd"), (0, 2, b"ab"), (0, 99, b"abcdef"), (3, 3, b""), (4, 2, b"")],
)
async def test_a_range_is_read(store: Objects, start: int, end: int | None, expected: bytes) -> None:
    await store.put("a", pieces(b"abcdef"))
    assert await whole(store, "a", start, end) == expected


async def test_an_empty_object_is_one(store: Objects) -> None:
    assert (await store.put("empty", pieces())).size == 0
    assert await whole(store, "empty") == await store.bytes("empty") == b""


async def test_an_object_is_replaced_and_deleted(store: Objects) -> None:
    await store.put("a", pieces(b"old"))
    await store.put("a", pieces(b"new"))
    assert await store.bytes("a") == b"new"
    await store.delete("a")
    await store.delete("a")
    for read in (store.size("a"), store.bytes("a"), whole(store, "a")):
        with pytest.raises(ObjectNotFound):
            await read


async def test_too_many_bytes_leave_nothing(store: Objects, tmp_path: Path) -> None:
    assert (await store.put("fits", pieces(b"123", b"456"), limit=6)).size == 6
    with pytest.raises(ObjectTooLarge) as caught:
        await store.put("a", pieces(b"123", b"4567"), limit=6)
    assert caught.value.limit == 6
    assert lying_in(tmp_path) == ["objects/fits"]


@pytest.mark.parametrize("before", [1, 9 * MIB])
async def test_a_source_that_fails_leaves_nothing(store: Objects, tmp_path: Path, before: int) -> None:
    with pytest.raises(ClientGone):
        await store.put("a", pieces(b"x" * before, ClientGone()))
    assert lying_in(tmp_path) == []


async def test_a_cancelled_write_leaves_nothing_and_reads_no_further(store: Objects, tmp_path: Path) -> None:
    waiting, closed = asyncio.Event(), asyncio.Event()

    async def endless() -> AsyncGenerator[bytes, None]:
        try:
            yield b"x" * (9 * MIB)
            waiting.set()
            await asyncio.Event().wait()
        finally:
            closed.set()

    writing = asyncio.create_task(store.put("a", endless()))
    await waiting.wait()
    assert [name.partition("#")[0] for name in lying_in(tmp_path)] == ["objects/a"]
    with pytest.raises(ObjectNotFound):
        await store.size("a")
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert closed.is_set()
    assert lying_in(tmp_path) == []


async def test_memory_does_not_grow_with_the_object(store: Objects) -> None:
    block = b"x" * MIB

    async def many() -> AsyncGenerator[bytes, None]:
        for _ in range(96):
            yield block

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    await store.put("a", many())
    read = sum([len(piece) async for piece in store.read("a")])
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    assert read == 96 * MIB
    assert grown < 64


async def test_the_end_of_the_disk_is_not_used(tmp_path: Path) -> None:
    room = [RESERVE + 20 * MIB, RESERVE + 3 * MIB, RESERVE - 1]
    store = Objects(tmp_path, free_bytes=lambda _: room.pop(0))
    await store.start()
    with pytest.raises(StorageUnavailable):
        await store.put("a", pieces(*[b"x" * (10 * MIB)] * 10))
    assert room == []
    assert lying_in(tmp_path) == []


async def test_a_failing_store_is_told_in_the_log_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = objects.at(None, tmp_path)
    await store.start()
    (tmp_path / "objects" / "a").write_text("a file where a folder should be")
    with pytest.raises(StorageUnavailable) as caught:
        await store.put("a/b", pieces(b"1"))
    assert str(tmp_path) not in caught.value.message
    assert str(tmp_path) in caplog.text


async def test_a_start_removes_what_a_killed_server_was_writing(tmp_path: Path) -> None:
    store = objects.at(None, tmp_path)
    await store.start()
    await store.put("files/whole", pieces(b"1"))
    for name, age in (("files/old#1", STAGED_FOR_S + 60), ("files/young#1", 60)):
        path = tmp_path / "objects" / name
        path.write_bytes(b"half")
        moment = path.stat().st_mtime - age
        os.utime(path, (moment, moment))
    await store.start()
    assert lying_in(tmp_path) == ["objects/files/whole", "objects/files/young#1"]


async def test_only_the_owner_can_look_into_the_folder(tmp_path: Path) -> None:
    await objects.at(None, tmp_path).start()
    assert (tmp_path / "objects").stat().st_mode & 0o077 == 0


async def test_another_folder_is_taken(tmp_path: Path) -> None:
    store = objects.at(str(tmp_path / "elsewhere"), tmp_path / "data")
    assert lying_in(tmp_path) == []
    with pytest.raises(StorageUnavailable):
        await store.put("a", pieces(b"1"))
    await store.start()
    await store.put("a", pieces(b"1"))
    assert lying_in(tmp_path) == ["elsewhere/a"]


def test_a_bucket_needs_a_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="names no bucket"):
        objects.at("s3:///prefix", tmp_path)
