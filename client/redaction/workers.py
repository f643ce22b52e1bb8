"""Worker processes: started when needed, ended when they hang, grow or have looked at enough."""

from __future__ import annotations

import asyncio
import json
import struct
import sys
from contextlib import suppress
from typing import Any

from client.redaction.errors import Unchecked

IMAGES = 200
"""After so many a process is replaced by a new one: what a library leaks is given back."""

_LENGTHS = struct.Struct(">II")
_ENDINGS = (asyncio.IncompleteReadError, ConnectionError, ValueError)


class Worker:
    """One process that reads images.

    Args:
        memory: bytes of data it may hold.
        threads: it may use.
        salt: secret of the digests.
    """

    def __init__(self, memory: int, threads: int, salt: bytes) -> None:
        self._settings, self._salt = {"memory": memory, "threads": threads}, salt
        self._process: asyncio.subprocess.Process | None = None
        self._images = 0

    async def look(self, data: bytes, show: bool, patience: float) -> tuple[dict[str, Any], bytes]:
        """The reply of the process and its image.

        Raises:
            Unchecked: it says that it cannot, it died, or `patience` seconds went by.
        """
        try:
            async with asyncio.timeout(patience):
                process = await self._running()
                await _send(process, {"preview": show}, data)
                reply, image = await _receive(process)
        except TimeoutError:
            await self.end()
            raise Unchecked(f"looking it through for personal data took more than {patience:.0f} s") from None
        except _ENDINGS:
            raise Unchecked(await self._last_words()) from None
        except BaseException:
            await self.end()  # a reply that nobody waits for would be taken for that of the next image
            raise
        if "error" in reply:
            raise Unchecked(f"{reply['error']}, so that personal data in it would go unseen")
        if self._images >= IMAGES:
            await self.end()
        return reply, image

    async def _running(self) -> asyncio.subprocess.Process:
        self._images += 1
        if self._process is None:
            self._images = 1
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "client.redaction.worker",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            await _send(self._process, self._settings, self._salt)
        return self._process

    async def _last_words(self) -> str:
        process, words = self._process, b""
        if process is not None and process.stderr is not None:
            with suppress(TimeoutError):
                words = await asyncio.wait_for(process.stderr.read(), 2)
        await self.end()
        if b"ModuleNotFoundError" in words:
            return "redaction needs pip install 'homescope[documents]'"
        return "the process that looks it through ended; it may need more memory"

    async def end(self) -> None:
        """Ends the process, whatever it is doing."""
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            process.kill()
        with suppress(TimeoutError):
            await asyncio.wait_for(process.communicate(), 5)


async def _send(process: asyncio.subprocess.Process, header: dict[str, Any], data: bytes) -> None:
    assert process.stdin is not None
    words = json.dumps(header).encode()
    process.stdin.write(_LENGTHS.pack(len(words), len(data)) + words)
    process.stdin.write(data)
    await process.stdin.drain()


async def _receive(process: asyncio.subprocess.Process) -> tuple[dict[str, Any], bytes]:
    assert process.stdout is not None
    words, size = _LENGTHS.unpack(await process.stdout.readexactly(_LENGTHS.size))
    header: dict[str, Any] = json.loads(await process.stdout.readexactly(words))
    return header, await process.stdout.readexactly(size)
