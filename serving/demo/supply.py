"""Where a step's batch comes from: drawn in this process, or ahead of time in others."""

from __future__ import annotations

import collections
import dataclasses
import multiprocessing
import random
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from serving.demo.batches import Batch, Chat, collate, compose
from serving.demo.pictures import Pictures


@dataclass(frozen=True)
class Settings:
    """One training run. Fields that a resumed run may change are marked; the rest must stay."""

    folder: Path
    seed: int = 0
    vision_steps: int = 1500
    steps: int = 12000  # may change: all steps, those of the vision phase included
    decay_steps: int = 8000  # may change: steps at the end over which the rate falls to zero
    warmup_steps: int = 60
    widen_steps: int = 1500  # steps until charts have their full variety
    variety: float = 2.5  # may change: how often rare forms occur in the end, 1 as in the charts to be read
    batch: int = 64  # images a step, over all processes
    rate: float = 1.5e-3
    row_tokens: int = 256
    processes: int = 2
    device: str = "cpu"
    loaders: int = 0  # may change: processes that draw batches ahead, 0 for none; a GPU waits for them
    auxiliary: float = 1.0  # may change: weight of the heads beside the dialogues
    start: Path | None = None
    start_tokenizer: Path | None = None
    pool: Path | None = None
    pool_share: float = 0.15  # may change
    talk_share: float = 0.5  # may change: of a batch's images, those that dialogues are about
    sheet_share: float = 0.5  # may change: of the others, those that are sheets of figures
    save_every: int = 50
    check_every: int = 250
    model: dict[str, Any] = dataclasses.field(default_factory=dict)


class Supply:
    """Batches of one process of a run. They depend on (seed, step, rank) alone, so a resumed run repeats none."""

    def __init__(self, settings: Settings, rank: int) -> None:
        self.settings, self.rank = settings, rank
        self.chat = Chat(Tokenizer.from_file(str(settings.folder / "tokenizer.json")))
        self.pictures = Pictures(settings.pool, settings.pool_share)

    def batch(self, step: int) -> Batch:
        settings = self.settings
        size = Pictures.size(random.Random(f"{settings.seed}/{step}"))
        rng = random.Random(f"{settings.seed}/{step}/{self.rank}")
        variety = min(settings.variety, 0.3 + (settings.variety - 0.3) * step / max(1, settings.widen_steps))
        count = settings.batch // settings.processes
        spoken = round(count * settings.talk_share) if step >= settings.vision_steps else 0
        pictures = [
            self.pictures.sheet(rng, size)
            if place >= spoken and rng.random() < settings.sheet_share
            else self.pictures.draw(rng, size, variety)
            for place in range(count)
        ]
        rows = compose(self.chat, pictures[:spoken], rng, settings.row_tokens) if spoken else []
        batch = collate(self.chat, rows, pictures, settings.row_tokens)
        return dataclasses.replace(batch, pixels=varied(batch.pixels, step, self.rank))

    def batches(self, first: int) -> Iterator[Batch]:
        """The batches from step `first` on."""
        if self.settings.loaders:
            yield from self._ahead(first)
            return
        for step in range(first, self.settings.steps):
            yield self.batch(step)

    def _ahead(self, first: int) -> Iterator[Batch]:
        loaders, waiting = self.settings.loaders, collections.deque[Future[Batch]]()
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(loaders, context, prepare, (self.settings, self.rank)) as pool:
            for step in range(first, self.settings.steps):
                waiting.append(pool.submit(prepared, step))
                if len(waiting) > 2 * loaders:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()


_supplies: list[Supply] = []
"""What a loader process was prepared with."""


def prepare(settings: Settings, rank: int) -> None:
    torch.set_num_threads(1)
    _supplies.append(Supply(settings, rank))


def prepared(step: int) -> Batch:
    return _supplies[0].batch(step)


def varied(pixels: Tensor, step: int, rank: int) -> Tensor:
    """Contrast, brightness and a little noise, different for each image of uint8 [B, H, W, 3]."""
    generator = torch.Generator().manual_seed(1_000_003 * step + rank)
    count = len(pixels)
    contrast = torch.empty(count, 1, 1, 1).uniform_(0.85, 1.1, generator=generator)
    shift = torch.empty(count, 1, 1, 3).uniform_(-12, 12, generator=generator)
    x = (pixels.float() - 128) * contrast.to(pixels.device) + (128 + shift).to(pixels.device)
    if step % 3 == 0:
        x = x + torch.empty(x.shape).normal_(0, 3.0, generator=generator).to(x.device)
    return x.clamp_(0, 255).to(torch.uint8)
