from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from client.ledger import Ledger
from client.models import Done, Job, Skipped
from client.prices import Price
from client.questions import Item, Question, load

_PATCH = 32
_MOST_PIXELS = 2_621_440
_FEWEST_PIXELS = 65_536
_UNSEEN_IMAGE = 1_300
_TEXT_PER_TOKEN = 2.5
_CHAT = 15
_ANSWER = 200


@dataclass(slots=True)
class Estimate:
    """What a batch would be, before anything of it is asked.

    Attributes:
        found: questions in all.
        asked: those that would be sent; the others are skipped, answered already, or repeat another one.
        images: in what would be sent.
        input_tokens: estimated, images and prompts.
        output_tokens: estimated from the answers so far, else `_ANSWER` each.
        seconds_each: of an answer so far; None before the first.
        skipped: reasons and how often each.
    """

    found: int = 0
    asked: int = 0
    answered: int = 0
    duplicates: int = 0
    images: int = 0
    input_tokens: float = 0.0
    output_tokens: float = 0.0
    seconds_each: float | None = None
    skipped: dict[str, int] = field(default_factory=dict)

    def cost(self, price: Price) -> float:
        return price.of_tokens(self.input_tokens, self.output_tokens)

    def seconds(self, in_flight: int, rpm: float | None, tpm: float | None) -> float | None:
        """How long it will take at least; None while nothing is known about that."""
        bounds = [] if self.seconds_each is None else [self.asked * self.seconds_each / in_flight]
        bounds += [] if rpm is None else [self.asked / rpm * 60]
        bounds += [] if tpm is None else [(self.input_tokens + self.output_tokens) / tpm * 60]
        return max(bounds, default=None)


def estimate(questions: Iterable[Question | Path], job: Job, out: Path) -> Estimate:
    """Looks at every question as the batch would, and asks none. Memory grows by 80 bytes a question: duplicates."""
    with Ledger.reading(out, job) as ledger:
        counted, seen = Estimate(), set[bytes]()
        each, counted.seconds_each = _so_far(ledger)
        for question in questions:
            counted.found += 1
            item = load(question)
            if isinstance(item, Skipped):
                counted.skipped[item.reason] = counted.skipped.get(item.reason, 0) + 1
                continue
            key = job.key(item.digest, item.prompt)
            if ledger is not None and isinstance(ledger.find(key), Done):
                counted.answered += 1
            elif (short := bytes.fromhex(key)[:12]) in seen:
                counted.duplicates += 1
            else:
                seen.add(short)
                _count(counted, item, job, each)
    return counted


def _so_far(ledger: Ledger | None) -> tuple[float, float | None]:
    """Mean output tokens and seconds of the answers that are there."""
    count, tokens, seconds = 0, 0, 0.0
    for record in ledger.records() if ledger is not None else ():
        if isinstance(record, Done) and record.duplicate_of is None:
            count, tokens, seconds = count + 1, tokens + record.usage.output_tokens, seconds + record.seconds
    return (tokens / count, seconds / count) if count else (_ANSWER, None)


def _count(counted: Estimate, item: Item, job: Job, each: float) -> None:
    counted.asked += 1
    counted.images += len(item.images)
    words = job.prompt if item.prompt is None else item.prompt
    counted.input_tokens += _CHAT + len(words) / _TEXT_PER_TOKEN + sum(map(image_tokens, item.images))
    counted.output_tokens += each


def image_tokens(image: object) -> float:
    """Qwen3-VL's tokens of an image: one per 32 x 32 pixels after the resize, and two; a guess where it is not here."""
    if not isinstance(image, bytes):
        return _UNSEEN_IMAGE
    try:
        with Image.open(io.BytesIO(image)) as opened:
            width, height = opened.size
    except (OSError, ValueError, Image.DecompressionBombError):
        return _UNSEEN_IMAGE
    pixels = min(max(width * height, _FEWEST_PIXELS), _MOST_PIXELS)
    return pixels / _PATCH**2 + 2
