from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

import pytest

from serving.media.lookups import HOLDER, Found, Lookups


class Slow:
    """Names that begin with "slow" are not answered before they may be."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.may = threading.Event()

    def __call__(self, host: str, *rest: Any) -> Found:
        self.asked.append(host)
        if host.startswith("slow"):
            self.may.wait()
        return socket.getaddrinfo("127.0.0.1", *rest)


async def looked(lookups: Lookups, host: str, holder: str) -> str:
    HOLDER.set(holder)
    return (await lookups.resolve(host, 80))[0]["host"]


async def test_names_that_hang_keep_no_name_of_another_key_waiting() -> None:
    slow = Slow()
    lookups = Lookups(10, look=slow)
    hung = [asyncio.create_task(looked(lookups, f"slow-{number}", "a")) for number in range(20)]
    try:
        assert await asyncio.wait_for(looked(lookups, "fast", "b"), 20) == "127.0.0.1"
        assert len(slow.asked) == 9  # four fifths of ten, and the fast one
    finally:
        slow.may.set()
    assert await asyncio.gather(*hung) == ["127.0.0.1"] * 20


async def test_who_left_holds_a_place_until_the_name_is_answered() -> None:
    slow = Slow()
    lookups = Lookups(10, look=slow)
    for number in range(20):
        left = asyncio.create_task(looked(lookups, f"slow-{number}", "a"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.wait([left])
    try:
        assert len(slow.asked) == 8
        assert await asyncio.wait_for(looked(lookups, "fast", "b"), 20) == "127.0.0.1"
    finally:
        slow.may.set()
    assert await asyncio.wait_for(looked(lookups, "slow-again", "a"), 20) == "127.0.0.1"


@pytest.mark.parametrize("host", ["no-such-name.invalid", "a" * 64 + ".test", "\0"])
async def test_a_name_that_is_none_is_an_error_of_the_network(host: str) -> None:
    def missing(*_: Any) -> Found:
        if "invalid" in host:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return socket.getaddrinfo(host, 80)

    with pytest.raises(OSError, match=r"\[Errno -2\]"):
        await Lookups(look=missing).resolve(host, 80)


async def test_numbers_are_read_as_they_are() -> None:
    (found,) = await Lookups().resolve("127.0.0.1", 81)
    assert (found["host"], found["port"], found["family"]) == ("127.0.0.1", 81, socket.AF_INET)
