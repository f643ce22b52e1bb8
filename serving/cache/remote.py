from __future__ import annotations

import aiomcache
import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

PREFIX = b"homescope:answer:"


class Redis:
    """Redis, Valkey and their like; what is forgotten when memory runs out is up to the server's `maxmemory-policy`."""

    def __init__(self, url: str, seconds: int) -> None:
        self._client = redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0))
        self._seconds = seconds

    async def start(self) -> None:
        pass

    async def get(self, key: bytes) -> bytes | None:
        value = await self._client.get(PREFIX + key)
        return value if isinstance(value, bytes) else None

    async def set(self, key: bytes, value: bytes) -> None:
        await self._client.set(PREFIX + key, value, ex=self._seconds)

    async def aclose(self) -> None:
        await self._client.aclose()


class Memcached:
    """One Memcached server."""

    def __init__(self, host: str, port: int, seconds: int) -> None:
        self._address = (host, port)
        self._seconds = seconds
        self._client: aiomcache.Client | None = None

    async def start(self) -> None:
        pass

    async def get(self, key: bytes) -> bytes | None:
        return await self._connected.get(_printable(key))

    async def set(self, key: bytes, value: bytes) -> None:
        await self._connected.set(_printable(key), value, exptime=self._seconds)

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.close()

    @property
    def _connected(self) -> aiomcache.Client:
        if self._client is None:
            self._client = aiomcache.Client(*self._address, pool_size=16, pool_minsize=0)
        return self._client


def _printable(key: bytes) -> bytes:
    """Memcached takes no other keys."""
    return PREFIX + key.hex().encode()
