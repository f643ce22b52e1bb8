from __future__ import annotations

import asyncio

from serving.allocation import Freed


async def trimmed(freed: Freed, times: int) -> None:
    """Waits until it has given back so often, which nothing announces."""
    async with asyncio.timeout(10):
        while freed.trims < times:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_memory_goes_back_once_nothing_happens() -> None:
    freed = Freed(quiet=0.02)
    for _ in range(3):
        freed.note()
    await trimmed(freed, 1)
    await asyncio.sleep(0.05)
    assert freed.trims == 1  # once after the last request, and no more while there is none
    freed.note()
    await trimmed(freed, 2)


async def test_memory_stays_while_requests_follow_each_other() -> None:
    freed = Freed(quiet=30)
    loop = asyncio.get_running_loop()
    freed.note()
    freed._look(loop)  # the timer, before its time
    assert freed.trims == 0
