"""A PostgreSQL for tests, from a wheel."""

from __future__ import annotations

import uuid

import asyncpg  # type: ignore[import-untyped]


async def fresh_database(server: str) -> str:
    """The URL of a new database of the server at this URL."""
    name = f"t{uuid.uuid4().hex}"
    connection = await asyncpg.connect(server)
    try:
        await connection.execute(f"CREATE DATABASE {name}")
    finally:
        await connection.close()
    return server.replace("/postgres?", f"/{name}?")
