from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from serving.errors import FileMissing, FileQuotaExceeded
from serving.storage import database, objects
from serving.storage.files import File, Files, Quota, Wanted
from serving.storage.journal import ADOPTED_WITHIN_S
from serving.storage.objects import ObjectNotFound, Objects, ObjectTooLarge
from tests.serving.storage.test_objects import lying_in, pieces


@dataclass
class Clock:
    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Kept:
    """A service with its parts, so that a test can look behind it."""

    files: Files
    objects: Objects
    folder: Path
    clock: Clock = field(default_factory=Clock)

    async def add(self, data: bytes = b"data", owner: str = "me", **values: Any) -> File:
        values = {"name": "a.txt", "purpose": "batch", **values}
        return await self.files.add(await self.files.receive(pieces(data)), owner=owner, **values)

    async def text(self, file: File, start: int = 0, end: int | None = None) -> bytes:
        return b"".join([piece async for piece in self.files.read(file, start, end)])


@pytest.fixture
async def records(tmp_path: Path) -> AsyncGenerator[AsyncEngine, None]:
    records = database.at(tmp_path)
    await database.create_tables(records, tmp_path)
    yield records
    await database.close(records)


@pytest.fixture
async def kept(tmp_path: Path, records: AsyncEngine) -> AsyncGenerator[Kept, None]:
    store, clock = objects.at(None, tmp_path), Clock()
    await store.start()
    yield Kept(Files(records, store, Quota(3, 100), clock=clock), store, tmp_path / "objects", clock)
    await store.aclose()


async def test_a_file_is_kept(kept: Kept) -> None:
    file = await kept.add(b"0123456789", description="ten digits")
    assert await kept.files.get(file.id, "me") == file
    assert (file.name, file.purpose, file.description, file.size) == ("a.txt", "batch", "ten digits", 10)
    assert await kept.text(file) == b"0123456789"
    assert await kept.text(file, 2, 4) == b"23"
    assert file.created_at == datetime.fromtimestamp(kept.clock.now, UTC).replace(tzinfo=None)


async def test_an_owner_sees_only_its_own(kept: Kept) -> None:
    file = await kept.add(owner="me")
    for refused in (kept.files.get(file.id, "you"), kept.files.delete(file.id, "you"), kept.files.get("none", "me")):
        with pytest.raises(FileMissing):
            await refused
    assert await kept.files.page("you", 1, 10) == (0, [])
    assert await kept.files.after("you", None, 10) == ([], False)
    assert await kept.files.get(file.id, "me")


async def test_a_deleted_file_is_gone_with_its_bytes(kept: Kept) -> None:
    file = await kept.add()
    await kept.files.delete(file.id, "me")
    with pytest.raises(FileMissing):
        await kept.files.get(file.id, "me")
    with pytest.raises(FileMissing):
        await kept.files.delete(file.id, "me")
    assert lying_in(kept.folder) == []
    assert (await kept.add()).number > file.number


async def test_pages_have_the_newest_first(kept: Kept) -> None:
    added = [(await kept.add()).id for _ in range(3)]
    total, first = await kept.files.page("me", 1, 2)
    _, second = await kept.files.page("me", 2, 2)
    assert total == 3
    assert [file.id for file in [*first, *second]] == added[::-1]
    assert (await kept.files.page("me", 10**9, 100))[1] == []


async def test_a_list_goes_on_after_a_file(kept: Kept) -> None:
    one, two, three = [(await kept.add()).id for _ in range(3)]

    async def listed(after: str | None, limit: int, *, ascending: bool) -> tuple[list[str], bool]:
        files, more = await kept.files.after("me", after, limit, Wanted(ascending=ascending))
        return [file.id for file in files], more

    assert await listed(None, 2, ascending=False) == ([three, two], True)
    assert await listed(two, 2, ascending=False) == ([one], False)
    assert await listed(None, 1, ascending=True) == ([one], True)
    assert await listed(one, 2, ascending=True) == ([two, three], False)
    with pytest.raises(FileMissing):
        await listed("none", 1, ascending=True)


async def test_a_list_is_restricted(kept: Kept) -> None:
    old = await kept.add(purpose="vision")
    kept.clock.now += 60
    new = await kept.add(purpose="batch")

    async def listed(**wanted: Any) -> list[File]:
        return (await kept.files.after("me", None, 10, Wanted(**wanted)))[0]

    assert await listed(purpose="vision") == [old]
    assert await listed(since=new.created_at) == [new]
    assert await listed(until=old.created_at) == [old]
    assert await listed(since=old.created_at, until=new.created_at) == [new, old]


async def test_an_id_keeps_its_first_file(kept: Kept) -> None:
    first = await kept.add(b"first", id="output-1")
    again = await kept.add(b"again", id="output-1")
    assert again == first
    assert await kept.text(again) == b"first"
    assert len(lying_in(kept.folder)) == 1


@pytest.mark.parametrize(("sizes", "said"), [([1, 1, 1, 1], "number"), ([60, 60], "capacity")])
async def test_an_owner_has_a_quota(kept: Kept, sizes: list[int], said: str) -> None:
    await kept.add(b"x" * 90, owner="somebody else")
    for size in sizes[:-1]:
        await kept.add(b"x" * size)
    with pytest.raises(FileQuotaExceeded, match=said):
        await kept.add(b"x" * sizes[-1])
    assert len(lying_in(kept.folder)) == len(sizes)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("图表 一.png", "图表 一.png"),
        ("../../etc/passwd", "passwd"),
        ("C:\\temp\\a.png", "a.png"),
        ("a\0b\r\nc.png", "abc.png"),
        ("", "file"),
        ("/", "file"),
        ("x" * 300 + ".jsonl", "x" * 249 + ".jsonl"),
    ],
)
async def test_a_name_is_a_base_name(kept: Kept, name: str, expected: str) -> None:
    assert (await kept.add(name=name)).name == expected


async def test_a_file_ends_with_its_time(kept: Kept) -> None:
    end = datetime.fromtimestamp(kept.clock.now, UTC).replace(tzinfo=None) + timedelta(hours=1)
    file = await kept.add(expires_at=end)
    stays = await kept.add()
    kept.clock.now += 3599
    assert await kept.files.get(file.id, "me") == file
    kept.clock.now += 1
    with pytest.raises(FileMissing):
        await kept.files.get(file.id, "me")
    assert await kept.files.page("me", 1, 10) == (1, [stays])
    await kept.files.sweep()
    assert lying_in(kept.folder) == [stays.object]


async def test_bytes_that_no_file_was_made_of_are_swept(kept: Kept) -> None:
    """What a crash leaves between the bytes and the row, or between the row's end and that of the bytes."""
    stored = await kept.files.receive(pieces(b"orphan"))
    file = await kept.add()
    await kept.files.sweep()
    assert len(lying_in(kept.folder)) == 2
    kept.clock.now += ADOPTED_WITHIN_S
    await kept.files.sweep()
    assert lying_in(kept.folder) == [file.object]
    with pytest.raises(ObjectNotFound):
        await kept.objects.size(stored.name)


async def test_a_deletion_that_was_interrupted_is_finished(kept: Kept) -> None:
    file = await kept.add()
    await kept.files._delete(file)  # the row is gone, and then the server was killed
    assert lying_in(kept.folder) == [file.object]
    await kept.files.sweep()
    assert lying_in(kept.folder) == []


async def test_what_is_discarded_or_refused_leaves_nothing(kept: Kept) -> None:
    await kept.files.discard(await kept.files.receive(pieces(b"1")))
    with pytest.raises(ObjectTooLarge):
        await kept.files.receive(pieces(b"12"), 1)
    assert lying_in(kept.folder) == []


async def test_many_at_once(kept: Kept) -> None:
    files = Files(kept.files._database, kept.objects)
    added = await asyncio.gather(
        *(_add(files, name) for name in map(str, range(20))),
    )
    total, listed = await files.page("me", 1, 100)
    assert total == 20
    assert {file.id for file in listed} == {file.id for file in added}


async def _add(files: Files, name: str) -> File:
    return await files.add(await files.receive(pieces(name.encode())), owner="me", name=name, purpose="batch")


async def test_files_that_come_together_do_not_get_beyond_the_quota(kept: Kept) -> None:
    gate, begun = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncGenerator[bytes, None]:
        yield bytes(60)
        begun.set()
        await gate.wait()

    first = asyncio.create_task(kept.files.receive(slow(), owner="me"))
    await begun.wait()
    with pytest.raises(FileQuotaExceeded, match="what is being sent"):
        await kept.files.receive(pieces(bytes(60)), owner="me")
    gate.set()
    stored = await first
    with pytest.raises(FileQuotaExceeded):  # it has come, and is no file yet
        await kept.files.receive(pieces(bytes(60)), owner="me")
    await kept.files.discard(stored)
    again = await kept.files.receive(pieces(bytes(60)), owner="me")
    await kept.files.add(again, owner="me", name="a", purpose="batch")
    with pytest.raises(FileQuotaExceeded):
        await kept.files.receive(pieces(bytes(60)), owner="me")
    await kept.files.receive(pieces(bytes(40)), owner="me")
    assert len(list(kept.folder.rglob("files/*"))) == 2


async def test_the_files_of_all_have_a_bound_together(kept: Kept, records: AsyncEngine) -> None:
    files = Files(records, kept.objects, Quota(3, 100, 150), clock=kept.clock)
    for owner in ("me", "you"):
        await files.add(await files.receive(pieces(bytes(60)), owner=owner), owner=owner, name="a", purpose="batch")
    with pytest.raises(FileQuotaExceeded):
        await files.receive(pieces(bytes(60)), owner="them")
    await files.receive(pieces(bytes(60)))  # of work that was done
