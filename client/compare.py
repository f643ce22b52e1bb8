"""The same questions to two servers, and where they differ: answers, tokens, time, money.

Both sides get each image at the same time, so that a slow minute of the network or of a machine meets both.
"""

from __future__ import annotations

import asyncio
import difflib
import json
import re
import statistics
import time
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from client.errors import HomescopeError
from client.models import Job, Usage
from client.prices import Price
from client.scoring import same
from client.session import Session
from client.structured import json_in

_NUMBER = re.compile(r"[-+]?\d+(?:,\d{3})*(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two servers. Without a price its cost is not told."""

    name: str
    session: Session
    model: str
    price: Price | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What one server said about one image; `error` says why it said nothing."""

    text: str = ""
    usage: Usage = field(default_factory=Usage)
    seconds: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Difference:
    """One image on both servers.

    Attributes:
        exact: the same words, or the same JSON value.
        fields: share of the JSON leaves of either that are equal in both; None where one is no JSON.
        numbers: the same for the numbers alone, of JSON or of plain text.
        similarity: of the texts, 0 to 1 (Ratcliff and Obershelp).
    """

    file: str
    first: Reply
    second: Reply
    exact: bool
    fields: float | None
    numbers: float | None
    similarity: float

    @property
    def answered(self) -> bool:
        return not (self.first.error or self.second.error)


@dataclass(frozen=True, slots=True)
class Totals:
    """Of one side, over the images that both answered. Cost is of 1,000 images, None without a price."""

    name: str
    answered: int
    failed: int
    median_s: float
    p95_s: float
    input_tokens: float
    output_tokens: float
    image_tokens: float
    cost_per_1000: float | None
    currency: str


async def compare(
    images: Iterable[Path | str], job: Job, first: Side, second: Side, concurrency: int = 4
) -> AsyncGenerator[Difference, None]:
    """Asks both servers about every image, so many images at a time; differences come as they are known."""
    slots = asyncio.Semaphore(concurrency)
    waiting: set[asyncio.Task[Difference]] = set()
    done: set[asyncio.Task[Difference]] = set()
    source = iter(images)

    async def one(image: Path | str) -> Difference:
        async with slots:
            replies = await asyncio.gather(_ask(first, image, job), _ask(second, image, job))
        return difference(str(image), *replies)

    try:
        while True:
            while len(waiting) < concurrency and (image := next(source, None)) is not None:
                waiting.add(asyncio.create_task(one(image)))
            if not waiting:
                return
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                yield task.result()
    finally:
        for task in waiting:
            task.cancel()
        # Those that are done as well: of several with a wrong key one has told of it, the others need not.
        await asyncio.gather(*waiting, *done, return_exceptions=True)


async def _ask(side: Side, image: Path | str, job: Job) -> Reply:
    began = time.monotonic()
    try:
        answer = await side.session.ask(image, job.prompt, model=side.model, parameters=job.parameters)
    except HomescopeError as error:
        if error.fatal:
            raise
        return Reply(error=str(error), seconds=time.monotonic() - began)
    return Reply(answer.text, answer.usage, time.monotonic() - began)


def difference(file: str, first: Reply, second: Reply) -> Difference:
    """Compares two replies. One that failed is like nothing."""
    if first.error or second.error:
        return Difference(file, first, second, False, None, None, 0.0)
    one, other = value_of(first.text), value_of(second.text)
    structured = isinstance(one, dict | list) and isinstance(other, dict | list)
    exact = first.text.strip() == second.text.strip() or (structured and same(one, other))
    fields = _agreement(leaves(one), leaves(other)) if structured else None
    numbers = _agreement(_numbers(first.text, one), _numbers(second.text, other))
    similarity = difflib.SequenceMatcher(None, first.text, second.text, autojunk=False).ratio()
    return Difference(file, first, second, exact, fields, numbers, similarity)


def value_of(text: str) -> Any:
    """The JSON in an answer; None where there is none."""
    try:
        return json_in(text)
    except (ValueError, RecursionError):
        return None


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Each leaf of a JSON value by its place, such as `.values[0]`."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield from leaves(each, f"{place}.{name}")
    elif isinstance(value, list):
        for at, each in enumerate(value):
            yield from leaves(each, f"{place}[{at}]")
    elif value is not None:
        yield place, value


def _numbers(text: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list):
        return ((place, leaf) for place, leaf in leaves(value) if isinstance(leaf, int | float))
    return ((str(at), float(found.replace(",", ""))) for at, found in enumerate(_NUMBER.findall(text)))


def _agreement(first: Iterable[tuple[str, Any]], second: Iterable[tuple[str, Any]]) -> float | None:
    """Share of the places of either that hold the same in both; None where there is none."""
    one, other = dict(first), dict(second)
    places = one.keys() | other.keys()
    if not places:
        return None
    return sum(place in one and place in other and same(one[place], other[place]) for place in places) / len(places)


def totals(side: Side, replies: Sequence[Reply], both: Sequence[bool]) -> Totals:
    """Of one side's replies; `both` says for which images both sides answered."""
    good = [reply for reply, answered in zip(replies, both, strict=True) if answered]
    times = sorted(reply.seconds for reply in good) or [0.0]
    count = max(1, len(good))
    cost = None if side.price is None else sum(side.price.of(reply.usage) for reply in good) / count * 1000
    return Totals(
        name=side.name,
        answered=sum(not reply.error for reply in replies),
        failed=sum(bool(reply.error) for reply in replies),
        median_s=statistics.median(times),
        p95_s=times[min(len(times) - 1, int(len(times) * 0.95))],
        input_tokens=sum(reply.usage.input_tokens for reply in good) / count,
        output_tokens=sum(reply.usage.output_tokens for reply in good) / count,
        image_tokens=sum(reply.usage.image_tokens for reply in good) / count,
        cost_per_1000=cost,
        currency="" if side.price is None else side.price.currency,
    )


@dataclass(frozen=True, slots=True)
class Comparison:
    """All of it: the images, and each side's totals."""

    differences: Sequence[Difference]
    first: Totals
    second: Totals

    @classmethod
    def of(cls, differences: Sequence[Difference], first: Side, second: Side) -> Comparison:
        both = [each.answered for each in differences]
        one = totals(first, [each.first for each in differences], both)
        return cls(differences, one, totals(second, [each.second for each in differences], both))

    @property
    def answered(self) -> list[Difference]:
        return [each for each in self.differences if each.answered]

    def share(self, name: str) -> float | None:
        """The mean of `exact`, `fields`, `numbers` or `similarity`, over the images that have it."""
        values = [float(value) for each in self.answered if (value := getattr(each, name)) is not None]
        return statistics.fmean(values) if values else None


def to_json(one: Difference) -> str:
    """One line."""
    return json.dumps(asdict(one), ensure_ascii=False)
