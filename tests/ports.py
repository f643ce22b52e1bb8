"""Ports for servers that have to be told theirs before they start."""

from __future__ import annotations

import random
import socket
from pathlib import Path

GIVEN = Path("/proc/sys/net/ipv4/ip_local_port_range")
FROM = 11_000
_told: set[int] = set()


def free_port(*, above: int = 0) -> int:
    """A port of 127.0.0.1 that nobody has, another one each time; with `above`, the one so much higher is free too.

    The kernel gives it to no connection meanwhile, as it may one that was found by binding port 0: those of its own
    range are left alone. At random, because other tests look for theirs at the same time.
    """
    below = int(GIVEN.read_text().split()[0]) if GIVEN.exists() else 32_768
    if below <= FROM + above + 1000:
        raise RuntimeError(f"no port between {FROM} and {below} is left to servers")
    while True:
        port = random.randrange(FROM, below - above)
        if port not in _told and _is_free(port) and (not above or _is_free(port + above)):
            _told.add(port)
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
