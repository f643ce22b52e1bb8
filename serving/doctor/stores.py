"""Whether what the server keeps can be kept."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import SQLAlchemyError

from serving.doctor.finding import Finding
from serving.errors import StorageUnavailable
from serving.settings import Settings
from serving.storage import database as databases
from serving.storage import objects
from serving.storage.migrations import HEAD, steps

SKEW = 5.0
"""Seconds between two clocks from which leases and signatures go wrong."""
WITHIN = 5.0


async def database(settings: Settings) -> Finding:
    """Looks and changes nothing: an upgrade is for the server to make."""
    engine = databases.at(settings.data, settings.database_url)
    local = engine.url.get_backend_name() == "sqlite"
    try:
        if local and not _exists(engine.url.database):
            return Finding("ok", "database", "SQLite in the data folder, made at the first start")
        async with engine.connect() as connection:
            began = time.monotonic()
            version = await connection.run_sync(_version)
            took = (time.monotonic() - began) * 1e3
            apart = 0.0 if local else abs((await connection.scalar(text(EPOCH)) or 0) - time.time())
    except (OSError, SQLAlchemyError) as error:
        reason = str(getattr(error, "__cause__", None) or error).partition("\n")[0]
        where = "the file in HOMESCOPE_DATA" if local else "HOMESCOPE_DATABASE, and whether PostgreSQL runs"
        return Finding("fail", "database", f"{reason}; check {where}")
    except ImportError as error:
        return Finding("fail", "database", f"{error.name} is missing; pip install 'homescope[serving,scale]'")
    finally:
        await databases.close(engine)
    if apart > SKEW:
        return Finding("fail", "database", f"its clock is {apart:.0f} s from ours; set both by NTP")
    return Finding("ok", "database", f"{engine.url.get_backend_name()} answers in {took:.1f} ms; {_state(version)}")


EPOCH = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)"


def _exists(path: str | None) -> bool:
    return path is not None and Path(path).exists()


def _version(connection: Connection) -> str | None:
    existing = set(inspect(connection).get_table_names())
    return steps.version(connection, existing)


def _state(version: str | None) -> str:
    if version == HEAD:
        return f"its tables are of this version ({HEAD})"
    return f"its tables are brought from {version or 'none'} to {HEAD} at the next start"


async def object_store(settings: Settings) -> Finding:
    where = settings.objects or f"{settings.data / 'objects'}"
    name = f"doctor-{uuid.uuid4()}"

    async def pieces() -> AsyncGenerator[bytes, None]:
        yield b"doctor"

    try:
        store = objects.at(settings.objects, settings.data)
        await store.start()
        began = time.monotonic()
        try:
            await store.put(name, pieces())
            same = await store.bytes(name) == b"doctor"
            await store.delete(name)
        finally:
            await store.aclose()
    except (OSError, ValueError, StorageUnavailable) as error:
        cause = str(error.__cause__ or error).strip().partition("\n")[0]
        change = "HOMESCOPE_OBJECTS, and for a bucket AWS_ENDPOINT_URL, AWS_REGION and the keys of AWS_*"
        return Finding("fail", "object store", f"{where}: {cause}; check {change}")
    if not same:
        return Finding("fail", "object store", f"{where} gives back other bytes than it was given; look at its disk")
    took = (time.monotonic() - began) * 1e3
    return Finding("ok", "object store", f"{where} took, gave back and deleted an object in {took:.0f} ms")


async def counters(settings: Settings) -> Finding:
    if settings.redis_url is None:
        return Finding("skip", "limits", "counted by this server alone; HOMESCOPE_REDIS_URL for several")
    return await _ping("limits", settings.redis_url.get_secret_value(), "HOMESCOPE_REDIS_URL")


async def cache(settings: Settings) -> Finding:
    if settings.cache in ("off", "memory"):
        return Finding("skip", "cache", settings.cache)
    return await _ping("cache", settings.cache, "HOMESCOPE_CACHE")


async def _ping(check: str, url: str, setting: str) -> Finding:
    parts = urlsplit(url)
    began = time.monotonic()
    try:
        await (_memcached(url) if parts.scheme == "memcached" else _redis(url))
    except ImportError as error:
        return Finding("fail", check, f"{error.name} is missing; pip install 'homescope[serving,scale]'")
    except Exception as error:  # each client has errors of its own
        reason = str(error).partition("\n")[0] or type(error).__name__
        return Finding("fail", check, f"{parts.hostname} does not answer: {reason}; check {setting}")
    return Finding("ok", check, f"{parts.hostname or url} answers in {(time.monotonic() - began) * 1e3:.1f} ms")


async def _redis(url: str) -> None:
    import redis.asyncio as redis

    client = redis.Redis.from_url(url, socket_timeout=WITHIN, socket_connect_timeout=WITHIN)
    try:
        await client.ping()
    finally:
        await client.aclose()


async def _memcached(url: str) -> None:
    import aiomcache

    parts = urlsplit(url)
    client = aiomcache.Client(parts.hostname or "127.0.0.1", parts.port or 11211)
    try:
        await client.version()
    finally:
        await client.close()
