"""A homescope server as a process of its own, whose engine notes in a file what it was asked.

python -m tests.client.homescope_process DATA PORT NOTES
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import uvicorn

from serving.access.keys import KeyStore
from serving.app import create_app
from serving.generation import Chunk, Generation
from serving.settings import Settings
from serving.storage import database
from tests.fakes import FakeEngine


class NotingEngine(FakeEngine):
    def __init__(self, notes: Path) -> None:
        super().__init__()
        self._notes = notes
        self.always("seen")

    async def generate(self, generation: Generation) -> AsyncGenerator[Chunk, None]:
        with self._notes.open("a") as notes:
            notes.write("asked\n")
        async for chunk in super().generate(generation):
            yield chunk


async def key_of(data: Path) -> str:
    """Makes the tables and a key, which `data/key` keeps for the next start."""
    file = data / "key"
    if not file.exists():
        records = database.at(data)
        await database.create_tables(records, data)
        secret = await KeyStore(records).create("test")
        await database.close(records)
        file.write_text(secret)
    return file.read_text()


def main(data: Path, port: int, notes: Path) -> None:
    asyncio.run(key_of(data))
    uvicorn.run(create_app(Settings(data=data), NotingEngine(notes)), port=port, log_config=None)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
