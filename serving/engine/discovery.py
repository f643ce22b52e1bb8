from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import TypeAlias
from urllib.parse import urlsplit

SCHEME = "dns+http://"

Resolve: TypeAlias = Callable[[str, int], Awaitable[list[str]]]
"""The addresses of a host at a port. Raises `OSError`."""


def is_name(url: str) -> bool:
    """Whether the URL stands for all addresses that its host has."""
    return url.startswith(SCHEME)


async def resolve(host: str, port: int) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return sorted({str(address[0]) for *_, address in found})


async def expand(url: str, look_up: Resolve = resolve) -> list[str]:
    """The URL itself, or for dns+http://host:port/path one for each address of the host. Raises `OSError`."""
    if not is_name(url):
        return [url]
    parts = urlsplit(url.removeprefix("dns+"))
    port = parts.port or 80
    addresses = await look_up(parts.hostname or "", port)
    hosts = [f"[{address}]" if ":" in address else address for address in addresses]
    return [f"http://{host}:{port}{parts.path}" for host in hosts]
