from __future__ import annotations

import argparse
import dataclasses
import os
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from serving.demo import heads
from serving.demo.batches import Batch, Chat, collate, compose
from serving.demo.config import model_config
from serving.demo.network import Network, patches
from serving.demo.optimiser import Flat, Optimiser
from serving.demo.parameters import EMBEDDINGS, initial, start_from
from serving.demo.pictures import Pictures
from serving.demo.vocabulary import train_tokenizer

MIDDLE_BLOCK = 3
BALANCE = 0.01


@dataclass(frozen=True)
class Settings:
    """One training run. Fields that a resumed run may change are marked; the rest must stay."""

    folder: Path
    seed: int = 0
    vision_steps: int = 1000
    steps: int = 8000  # may change: all steps, those of the vision phase included
    decay_steps: int = 800  # may change: steps at the end over which the rate falls to zero
    warmup_steps: int = 60
    widen_steps: int = 1500  # steps until charts have their full variety
    batch: int = 32  # images a step, over all processes
    rate: float = 2e-3
    row_tokens: int = 256
    processes: int = 2
    device: str = "cpu"
    compiled: bool = False
    auxiliary: float = 1.0  # may change: weight of the heads beside the dialogues
    start: Path | None = None
    start_tokenizer: Path | None = None
    pool: Path | None = None
    pool_share: float = 0.15  # may change
    talk_share: float = 0.5  # may change: of a batch's images, those that dialogues are about
    save_every: int = 50
    check_every: int = 250
    model: dict[str, Any] = dataclasses.field(default_factory=dict)


def learning_rate(settings: Settings, step: int) -> float:
    """Warm-up, constant, and a linear fall at the end."""
    warm = min(1.0, (step + 1) / settings.warmup_steps)
    left = min(1.0, (settings.steps - step) / max(1, settings.decay_steps))
    return settings.rate * warm * left


@dataclass
class Meter:
    """Running means between two progress lines."""

    seen: dict[str, list[float]] = dataclasses.field(default_factory=dict)

    def add(self, **values: float) -> None:
        for name, value in values.items():
            self.seen.setdefault(name, []).append(value)

    def line(self) -> str:
        text = " ".join(f"{name} {sum(values) / len(values):.3f}" for name, values in self.seen.items())
        self.seen = {}
        return text


class Trainer:
    """One process of a run. Batches depend on (seed, step, rank) alone, so a resumed run repeats none."""

    def __init__(self, settings: Settings, rank: int = 0) -> None:
        self.settings, self.rank = settings, rank
        self.device = torch.device(settings.device)
        settings.folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer = self._tokenizer()
        self.chat = Chat(self.tokenizer)
        self.config = model_config(self.tokenizer, **settings.model)
        self.flat = Flat.of(initial(self.config, settings.seed), self.device, torch.bfloat16)
        self.missing = self._start()
        self.optimiser = Optimiser(self.flat, rank, settings.processes)
        self.parameters = self.flat.leaves()
        self.network = Network(self.config, self.parameters, compiled=settings.compiled)
        self.pictures = Pictures(settings.pool, settings.pool_share)
        self.step = 0
        self.meter = Meter()
        self.resumed = self._resume()

    def _tokenizer(self) -> Tokenizer:
        path = self.settings.folder / "tokenizer.json"
        if not path.exists():
            tokenizer = train_tokenizer(self.settings.seed)
            temporary = path.with_suffix(f".{self.rank}")
            tokenizer.save(str(temporary))
            os.replace(temporary, path)
        return Tokenizer.from_file(str(path))

    def _start(self) -> list[str]:
        if self.settings.start is None:
            return []
        old = self.settings.start_tokenizer
        state = torch.load(self.settings.start, map_location="cpu", weights_only=True)
        return self.flat.load(start_from(state, Tokenizer.from_file(str(old)) if old else None, self.tokenizer))

    @property
    def checkpoint(self) -> Path:
        return self.settings.folder / "checkpoint.pt"

    def _resume(self) -> bool:
        if not self.checkpoint.exists():
            return False
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        self.optimiser.load(state["optimiser"])
        self.step = state["step"]
        return True

    def save(self) -> None:
        """Writes the checkpoint so that a kill at any moment leaves the old or the new one whole."""
        temporary = self.checkpoint.with_suffix(".tmp")
        torch.save({"optimiser": self.optimiser.state(), "step": self.step}, temporary)
        os.replace(temporary, self.checkpoint)

    def batch(self, step: int) -> Batch:
        settings = self.settings
        size = Pictures.size(random.Random(f"{settings.seed}/{step}"))
        rng = random.Random(f"{settings.seed}/{step}/{self.rank}")
        variety = min(1.0, 0.3 + 0.7 * step / max(1, settings.widen_steps))
        pictures = [self.pictures.draw(rng, size, variety) for _ in range(settings.batch // settings.processes)]
        spoken_of = pictures[: round(len(pictures) * settings.talk_share)] if step >= settings.vision_steps else []
        rows = compose(self.chat, spoken_of, rng, settings.row_tokens) if spoken_of else []
        batch = collate(self.chat, rows, pictures, settings.row_tokens).to(self.device)
        return dataclasses.replace(batch, pixels=varied(batch.pixels, step, self.rank))

    def loss(self, batch: Batch, talk: bool) -> Tensor:
        rows, columns = (side // 16 for side in batch.pixels.shape[1:3])
        seen = self.network.see(patches(batch.pixels), rows, columns, MIDDLE_BLOCK)
        parts, (char, place) = heads.patch_loss(seen.middle, batch.characters, ("aux.0", "aux.2"), self.parameters)
        more, (role,) = heads.patch_loss(seen.final, batch.characters, ("aux.1",), self.parameters)
        label = heads.label_loss(seen.tokens, batch.labels, self.parameters)
        self.meter.add(char=char, place=place, role=role, label_role=label.role, letters=label.letters, label=label.whole)
        total = parts + more + label.loss
        if not talk:
            return total
        loads: list[Tensor] = []
        spoken_of = seen.first(len(batch.image_places) // seen.tokens.shape[1])
        hidden = self.network.read(batch.ids, batch.positions, batch.mask, batch.image_places, spoken_of, loads)
        hidden = hidden.view(-1, hidden.shape[-1])[batch.sources]
        logits = F.linear(hidden, self.parameters[EMBEDDINGS]).float()
        losses = F.cross_entropy(logits, batch.truth, reduction="none")
        said = (losses * batch.weights).sum() / batch.weights.sum()
        digits = batch.weights >= 1
        right = (logits.argmax(-1) == batch.truth)[digits].float().mean()
        balance = torch.stack(loads).mean()
        self.meter.add(lm=said.item(), digits=right.item(), balance=balance.item())
        return self.settings.auxiliary * total + 2 * said + BALANCE * balance

    def train_step(self) -> float:
        torch.manual_seed(1_000_003 * (self.settings.seed + 1) + 2 * self.step + self.rank)
        self.loss(self.batch(self.step), self.step >= self.settings.vision_steps).backward()
        if self.settings.processes > 1:
            gradients = self.flat.gradients.float()
            dist.all_reduce(gradients)
            self.flat.gradients.copy_(gradients.div_(self.settings.processes))
        norm = self.optimiser.step(learning_rate(self.settings, self.step))
        self.step += 1
        return norm

    def run(self) -> None:
        settings, begun, first = self.settings, time.monotonic(), self.step
        self.say(f"{'resumed' if self.resumed else 'started'} at step {self.step} of {settings.steps}")
        while self.step < settings.steps:
            norm = self.train_step()
            if self.step % 20 == 0 or self.step - first in (1, 5):
                pace = (self.step - first) * settings.batch / (time.monotonic() - begun)
                rate = learning_rate(settings, self.step)
                self.say(f"step {self.step} {pace:.1f} img/s rate {rate:.1e} norm {norm:.2f} {self.meter.line()}")
            if self.rank == 0 and self.step % settings.save_every == 0:
                self.save()
        if self.rank == 0:
            self.save()

    def say(self, text: str) -> None:
        if self.rank == 0:
            print(time.strftime("%H:%M:%S"), text, flush=True)


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


def work(rank: int, settings: Settings, meeting: str) -> None:
    if settings.processes > 1:
        torch.set_num_threads(1)
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=settings.processes)
    torch.set_flush_denormal(True)
    Trainer(settings, rank).run()
    if settings.processes > 1:
        dist.destroy_process_group()


def parse(arguments: Sequence[str] | None) -> Settings:
    parser = argparse.ArgumentParser(
        prog="python -m serving.demo.train",
        description="Trains the demo model from scratch: first its eyes, then its dialogues. "
        "Run again with the same folder to resume.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    for field in dataclasses.fields(Settings):
        flag = "--" + field.name.replace("_", "-")
        if field.name == "folder":
            parser.add_argument(flag, type=Path, required=True, help="where checkpoints go")
        elif field.name in ("start", "start_tokenizer", "pool"):
            parser.add_argument(flag, type=Path, default=None)
        elif isinstance(field.default, bool):
            parser.add_argument(flag, action="store_true")
        elif field.name != "model":
            parser.add_argument(flag, type=type(field.default), default=field.default)
    return Settings(**vars(parser.parse_args(arguments)))


def main(arguments: Sequence[str] | None = None) -> None:
    settings = parse(arguments)
    with tempfile.TemporaryDirectory() as folder:
        meeting = str(Path(folder) / "meeting")
        if settings.processes == 1:
            work(0, settings, meeting)
        else:
            torch.multiprocessing.spawn(work, (settings, meeting), nprocs=settings.processes)


if __name__ == "__main__":
    main()
