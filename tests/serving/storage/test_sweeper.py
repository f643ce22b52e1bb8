from __future__ import annotations

import asyncio

from serving.errors import StorageUnavailable
from serving.storage.sweeper import EVERY_S, Sweeper


async def test_it_sweeps_at_the_start_and_after_each_pause() -> None:
    swept: list[str] = []
    pauses: list[float] = []
    third = asyncio.Event()

    async def failing() -> None:
        swept.append("failing")
        raise StorageUnavailable if len(swept) < 3 else ValueError

    async def other() -> None:
        swept.append("other")

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            third.set()
            await asyncio.Event().wait()

    sweeper = Sweeper(failing, other, pause=pause)
    sweeper.start()
    await third.wait()
    await sweeper.aclose()
    assert swept == ["failing", "other"] * 3
    assert pauses == [EVERY_S] * 3


async def test_one_that_was_not_started_ends() -> None:
    await Sweeper().aclose()
