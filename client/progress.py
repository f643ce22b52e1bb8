from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from client.batch import Batch
from client.prices import Price

PLAIN_INTERVAL = 5.0
_WINDOW = 60.0


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A small JSON file, replaced every few seconds, for whatever watches over long runs. `interval` is in seconds."""

    path: Path
    interval: float = PLAIN_INTERVAL

    def write(self, beat: dict[str, Any]) -> None:
        new = self.path.with_name(self.path.name + ".new")
        with suppress(OSError):  # a full disk ends the run with better words than these
            new.write_text(json.dumps(beat, ensure_ascii=False) + "\n", encoding="utf-8")
            new.replace(self.path)


class Progress:
    """What a person, or a program, sees of a running batch.

    A live bar on a terminal, now and then a line elsewhere, and a heartbeat where one is wanted.

    Args:
        batch: what is shown.
        console: where; its `is_terminal` decides the form. None: nowhere.
        count: tells how many questions there are, once; called in a thread, since folders can be large.
        interval: seconds between two lines where there is no terminal.
        price: of the model's tokens, for the cost so far and at the end.
        heartbeat: where to write the same as JSON.
    """

    def __init__(
        self, batch: Batch, console: Console | None, count: Callable[[], int], *, interval: float = PLAIN_INTERVAL,
        price: Price | None = None, heartbeat: Heartbeat | None = None,
    ) -> None:  # fmt: skip
        self._batch, self._console, self._count, self._interval = batch, console, count, interval
        self._price, self._heartbeat = price, heartbeat
        self._found: int | None = None
        self._rates: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])

    @asynccontextmanager
    async def shown(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._counted())]
        if self._heartbeat is not None:
            tasks.append(asyncio.create_task(self._beat(self._heartbeat)))
        if self._console is not None and not self._console.is_terminal:
            tasks.append(asyncio.create_task(self._tick(self._console)))
        try:
            if self._console is not None and self._console.is_terminal:
                with Live(console=self._console, get_renderable=self._bar, refresh_per_second=8, transient=True):
                    yield
            else:
                yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._heartbeat is not None:
                self._heartbeat.write(self.snapshot("ended"))

    async def _counted(self) -> None:
        self._found = await asyncio.to_thread(self._count)

    async def _tick(self, console: Console) -> None:
        while True:
            await asyncio.sleep(self._interval)
            console.print(self.line(), highlight=False, soft_wrap=True)

    async def _beat(self, heartbeat: Heartbeat) -> None:
        while True:
            heartbeat.write(self.snapshot("stopping" if self._batch.stopping else "running"))
            await asyncio.sleep(heartbeat.interval)

    def snapshot(self, state: str) -> dict[str, Any]:
        """The counts as a JSON object. `found`, `seconds_left` and costs are null while they are not known."""
        totals, pace = self._batch.totals, self._batch.pace
        cost = None if self._price is None else self._price.of(totals.usage)
        return {
            "state": state, "at": round(time.time(), 3), "found": self._found,
            "done": totals.done, "failed": totals.failed, "skipped": totals.skipped, "resumed": totals.resumed,
            "duplicates": totals.duplicates, "in_flight": pace.active, "limit": pace.limit,
            "per_second": round(self._rate(), 3), "seconds_left": self._seconds_left(),
            "input_tokens": totals.usage.input_tokens, "output_tokens": totals.usage.output_tokens,
            "cost": cost, "expected_cost": self._expected_cost(),
            "currency": None if self._price is None else self._price.currency,
        }  # fmt: skip

    def line(self) -> str:
        """`12 of 40: 11 done, 1 failed, 0 skipped; 1.9 images/s, 15 s left; 12,345 tokens; 0.2 CNY, 0.7 CNY in all`."""
        totals = self._batch.totals
        of = f"{totals.ended} of {'?' if self._found is None else self._found}"
        counts = f"{totals.done} done, {totals.failed} failed, {totals.skipped} skipped"
        return f"{of}: {counts}; {'; '.join(self._pace())}"

    def _pace(self) -> list[str]:
        totals, left = self._batch.totals, self._seconds_left()
        speed = f"{self._rate():.1f} images/s" + ("" if left is None else f", {duration(left)} left")
        return [speed, f"{totals.usage.total_tokens:,} tokens", *self._money()]

    def _money(self) -> list[str]:
        if self._price is None:
            return []
        expected = self._expected_cost()
        in_all = "" if expected is None else f", {self._price.shown(expected)} in all"
        return [self._price.shown(self._price.of(self._batch.totals.usage)) + in_all]

    def _rate(self) -> float:
        """Images asked per second, over the last minute: what an earlier run answered costs no time and tells none."""
        now, asked = time.monotonic(), self._batch.totals.asked
        while len(self._rates) > 1 and now - self._rates[1][0] > _WINDOW:
            self._rates.popleft()
        if now - self._rates[-1][0] > 1:
            self._rates.append((now, asked))
        at, before = self._rates[0]
        return (asked - before) / max(now - at, 0.001)

    def _left(self) -> int | None:
        return None if self._found is None else max(0, self._found - self._batch.totals.ended)

    def _seconds_left(self) -> float | None:
        left, rate = self._left(), self._rate()
        return None if left is None or not rate else round(left / rate, 1)

    def _expected_cost(self) -> float | None:
        """Of this run in all: the rest at the average of what was asked."""
        totals, left = self._batch.totals, self._left()
        if self._price is None or left is None or not totals.asked:
            return None
        so_far = self._price.of(totals.usage)
        return so_far + so_far / totals.asked * left

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
