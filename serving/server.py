"""The HTTP server: where it listens, and how it stops."""

from __future__ import annotations

import signal
import socket
import time
from types import FrameType

import uvicorn


class CannotListen(Exception):
    """Raised for an address that cannot be listened on; the message says why."""


def listen(host: str, port: int) -> socket.socket:
    """Raises `CannotListen`. Port 0 takes a free one."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except (OSError, UnicodeError) as error:  # a name that IDNA cannot write is a UnicodeError
        listener.close()
        why = error.strerror if isinstance(error, OSError) else "it is no host name"
        raise CannotListen(f"cannot listen on {host}:{port}: {why}") from None
    return listener


def url_of(listener: socket.socket) -> str:
    address, port = listener.getsockname()[:2]
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


class Server(uvicorn.Server):
    """Stops in steps: it says that it is stopping, takes requests for `linger` seconds more while those who spread them
    learn of it, then closes its port and lets the running ones end.

    Ctrl-C, and every signal after the first, close the port at once.
    """

    def __init__(self, config: uvicorn.Config, linger: float) -> None:
        super().__init__(config)
        self._linger = linger
        self._closes_at: float | None = None

    @property
    def stopping(self) -> bool:
        return self.should_exit or self._closes_at is not None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if sig == signal.SIGTERM and self._linger and not self.stopping:
            self._closes_at = time.monotonic() + self._linger
        else:
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        if self._closes_at is not None and time.monotonic() >= self._closes_at:
            self.should_exit = True
        return await super().on_tick(counter)
