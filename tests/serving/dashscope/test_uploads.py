from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import AsyncGenerator

import pytest

from serving.budget import Budget
from serving.errors import FileQuotaExceeded, InvalidRequest
from serving.generation import Timeline
from serving.media.fetch import Fetcher, FetchRules
from serving.media.images import Limits
from serving.media.references import Errand, References
from serving.storage import database, objects
from serving.storage.uploads import LIFETIME_S, Uploads
from tests.serving.dashscope.uploading import MAX_BYTES, ME, MODEL, YOU, Parts
from tests.serving.storage.test_objects import lying_in, pieces


async def test_an_upload_is_read_by_its_owner_alone(parts: Parts) -> None:
    url = await parts.keep("dir/a.png", b"mine")
    assert await parts.uploads.read(url, ME, MAX_BYTES) == b"mine"
    with pytest.raises(InvalidRequest, match=r"Failed to download multimodal content\. .*no upload of this API key"):
        await parts.uploads.read(url, YOU, MAX_BYTES)


@pytest.mark.parametrize("url", ["oss://", "oss://dir", "oss://dir/a.png/", "oss://dir/../dir/a.png", "oss://x\0", "x"])
async def test_an_unknown_url_is_refused(parts: Parts, url: str) -> None:
    await parts.keep("dir/a.png", b"mine")
    with pytest.raises(InvalidRequest):
        await parts.uploads.read(url, ME, MAX_BYTES)


async def test_an_upload_that_is_too_large_for_its_use_is_not_read(parts: Parts) -> None:
    url = await parts.keep("dir/a.png", b"12345")
    with pytest.raises(InvalidRequest, match=r"too large\. The limit is 4 bytes, got 5"):
        await parts.uploads.read(url, ME, 4)


async def test_an_upload_ends_after_two_days(parts: Parts) -> None:
    url = await parts.keep("dir/a.png", b"old")
    parts.clock.now += LIFETIME_S - 1
    young = await parts.keep("dir/b.png", b"young")
    assert await parts.uploads.sweep() == 0
    assert await parts.uploads.read(url, ME, MAX_BYTES) == b"old"
    parts.clock.now += 1
    with pytest.raises(InvalidRequest):
        await parts.uploads.read(url, ME, MAX_BYTES)
    assert await parts.uploads.sweep() == 1
    assert len(lying_in(parts.folder)) == 1
    assert await parts.uploads.read(young, ME, MAX_BYTES) == b"young"


async def test_uploads_under_one_key_are_read_in_their_order(parts: Parts) -> None:
    url = await parts.keep("dir/a.png", b"earlier")
    assert await parts.uploads.read(url, ME, MAX_BYTES, occurrence=(1, 2)) == b"earlier"
    await parts.keep("dir/a.png", b"first")
    await parts.keep("dir/a.png", b"second")
    read = [await parts.uploads.read(url, ME, MAX_BYTES, occurrence=(index, 2)) for index in range(2)]
    assert read == [b"first", b"second"]
    assert await parts.uploads.read(url, ME, MAX_BYTES) == b"second"


async def test_no_key_takes_the_disk_from_the_others(parts: Parts) -> None:
    store = objects.at(None, parts.folder.parent)
    await store.start()
    records = database.at(parts.folder.parent)
    uploads = Uploads(records, store, clock=parts.clock, quota=10)
    await uploads.keep("d/a", "me", MODEL, pieces(b"0123456789"), MAX_BYTES)
    with pytest.raises(FileQuotaExceeded, match="At most 10 bytes are kept, there are 10"):
        await uploads.keep("d/b", "me", MODEL, pieces(b"0"), MAX_BYTES)
    await uploads.keep("d/c", "you", MODEL, pieces(b"0"), MAX_BYTES)
    parts.clock.now += LIFETIME_S + 1
    await uploads.keep("d/b", "me", MODEL, pieces(b"0"), MAX_BYTES)
    await store.aclose()
    await database.close(records)


async def test_a_large_upload_is_never_held_whole(parts: Parts) -> None:
    async def zeros() -> AsyncGenerator[bytes, None]:
        for _ in range(64):
            yield bytes(1 << 20)

    await parts.uploads.keep("d/film", "me", MODEL, zeros(), 1 << 30)
    references = References(Fetcher(FetchRules()), Limits(), video_bytes=1 << 30, uploads=parts.uploads)
    file = parts.folder / "film"
    async with Budget(1 << 30, patience=1).lease() as lease:
        errand = Errand(ME, True, Timeline(), lease, Counter(["oss://d/film"]))
        tracemalloc.start()
        await references.video("oss://d/film", errand, file)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert file.stat().st_size == 64 << 20
    assert peak < 32 << 20
