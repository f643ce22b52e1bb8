from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from client.batch import Batch

PLAIN_INTERVAL = 5.0


class Progress:
    """What a person sees of a running batch: a live bar on a terminal, now and then a line elsewhere.

    Args:
        batch: what is shown.
        console: where; its `is_terminal` decides the form.
        count: tells how many images there are, once; called in a thread, since folders can be large.
        interval: seconds between two lines where there is no terminal.
    """

    def __init__(
        self, batch: Batch, console: Console, count: Callable[[], int], *, interval: float = PLAIN_INTERVAL
    ) -> None:
        self._batch, self._console, self._count, self._interval = batch, console, count, interval
        self._found: int | None = None
        self._began = time.monotonic()

    @asynccontextmanager
    async def shown(self) -> AsyncIterator[None]:
        counting = asyncio.create_task(self._counted())
        try:
            if self._console.is_terminal:
                with Live(console=self._console, get_renderable=self._bar, refresh_per_second=8, transient=True):
                    yield
            else:
                async with self._lines():
                    yield
        finally:
            counting.cancel()

    async def _counted(self) -> None:
        self._found = await asyncio.to_thread(self._count)

    @asynccontextmanager
    async def _lines(self) -> AsyncIterator[None]:
        ticking = asyncio.create_task(self._tick())
        try:
            yield
        finally:
            ticking.cancel()
            with suppress(asyncio.CancelledError):
                await ticking

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            self._console.print(self.line(), highlight=False, soft_wrap=True)

    def line(self) -> str:
        """`12 of 40: 11 done, 1 failed, 0 skipped; 1.9 images/s, 15 s left; 12,345 tokens`."""
        totals = self._batch.totals
        of = f"{totals.ended} of {'?' if self._found is None else self._found}"
        counts = f"{totals.done} done, {totals.failed} failed, {totals.skipped} skipped"
        return f"{of}: {counts}; {'; '.join(self._pace())}"

    def _pace(self) -> list[str]:
        totals, rate = self._batch.totals, self._rate()
        left = None if self._found is None or not rate else (self._found - totals.ended) / rate
        speed = f"{rate:.1f} images/s" + ("" if left is None else f", {duration(left)} left")
        return [speed, f"{totals.usage.total_tokens:,} tokens"]

    def _rate(self) -> float:
        """Images asked per second of this run: what an earlier run answered costs no time and tells none."""
        return self._batch.totals.asked / max(time.monotonic() - self._began, 0.001)

    def _bar(self) -> RenderableType:
        totals = self._batch.totals
        grid = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=self._found, completed=totals.ended, width=40, pulse=self._found is None)
        grid.add_row(bar, Text(f"{totals.ended}/{'?' if self._found is None else self._found}"), *self._pace())
        counts = Text.assemble(
            (f"{totals.done} done", "green"),
            "  ",
            (f"{totals.failed} failed", "red" if totals.failed else "dim"),
            "  ",
            (f"{totals.skipped} skipped", "yellow" if totals.skipped else "dim"),
            "  ",
            (f"{self._batch.pace.active} in flight", "dim"),
            ("  finishing these, Ctrl-C again to drop them", "bold") if self._batch.stopping else "",
        )
        return Group(grid, counts)


def duration(seconds: float) -> str:
    """`45 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
