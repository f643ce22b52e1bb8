"""One load from its plan to its report."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.environment import environment
from benchmarks.generator import Plan, Target, running
from benchmarks.record import Record, Writer
from benchmarks.workload import Ask, Workload

PROGRESS_S = 1.0


@dataclass(frozen=True)
class Open:
    """The times at which requests are due, in seconds, and the words for them."""

    dues: Iterable[float]
    words: str


@dataclass(frozen=True)
class Closed:
    """Users who each wait for their answer."""

    users: int
    seconds: float

    @property
    def words(self) -> str:
        return f"closed:{self.users}"


@dataclass
class Outcome:
    """The records of a run, in the order in which they ended, and what the run was."""

    records: list[Record]
    run: dict[str, Any]


async def load(
    target: Target,
    asks: Iterable[Ask],
    shape: Open | Closed,
    plan: Plan | None = None,
    facts: Mapping[str, Any] | None = None,
    on_progress: Callable[[Outcome], None] = lambda outcome: None,
    keep: Path | None = None,
) -> Outcome:
    """Runs a load, and writes the raw records to `keep` as they come.

    `facts` are told beside what is known of the machine, such as the workload and its seed.

    Raises:
        OSError: the records cannot be written.
        BadTarget: the address is none.
    """
    plan = plan or Plan()
    outcome = Outcome([], described(target, shape, plan, facts or {}))
    with kept(keep, outcome) as take:
        await _run(target, asks, shape, plan, take, outcome, on_progress)
    return outcome


@contextmanager
def kept(path: Path | None, outcome: Outcome) -> Iterator[Callable[[Record], None]]:
    """Takes records into `outcome`, and into a file when there is a path."""
    if path is None:
        yield outcome.records.append
        return
    writer = Writer(path, outcome.run)

    def take(record: Record) -> None:
        outcome.records.append(record)
        writer.write(record)

    try:
        yield take
        writer.tell(outcome.run)
    finally:
        writer.close()


async def _run(
    target: Target,
    asks: Iterable[Ask],
    shape: Open | Closed,
    plan: Plan,
    take: Callable[[Record], None],
    outcome: Outcome,
    on_progress: Callable[[Outcome], None],
) -> None:
    async with running(target, plan, take) as generator:
        telling = asyncio.create_task(_tell(outcome, on_progress))
        try:
            if isinstance(shape, Open):
                await generator.open(asks, shape.dues)
            else:
                await generator.closed(asks, shape.users, shape.seconds)
        finally:
            telling.cancel()
    outcome.run["loop_delay_p99_ms"] = round(generator.health.delay_p99_ms, 3)
    outcome.run["generator_cpu_share"] = round(generator.health.cpu_share, 3)


def described(target: Target, shape: Open | Closed, plan: Plan, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The head of a run's records; no key in it."""
    return {
        "name": target.name or f"{target.dialect.name}, {shape.words}",
        "url": target.url,
        "dialect": target.dialect.name,
        "model": target.model,
        "parameters": dict(target.extra),
        "arrivals": shape.words,
        "limit": plan.limit,
        "timeout": plan.timeout,
        "hang_up": plan.hang_up,
        **{name: asdict(value) if isinstance(value, Workload) else value for name, value in facts.items()},
        **environment(),
    }


async def _tell(outcome: Outcome, on_progress: Callable[[Outcome], None]) -> None:
    while True:
        await asyncio.sleep(PROGRESS_S)
        on_progress(outcome)
