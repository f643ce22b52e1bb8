from __future__ import annotations

import argparse
import dataclasses
import fcntl
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor
from torch.multiprocessing.spawn import start_processes

from serving.demo import heads
from serving.demo.batches import Batch
from serving.demo.config import model_config
from serving.demo.network import Network, patches
from serving.demo.optimiser import Flat, Optimiser
from serving.demo.parameters import EMBEDDINGS, initial, start_from
from serving.demo.supply import Settings, Supply
from serving.demo.vocabulary import train_tokenizer
from serving.engine.orphans import die_with_parent

MIDDLE_BLOCK = 3
BALANCE = 0.01


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
    """One process of a run: its model, optimiser and progress."""

    def __init__(self, settings: Settings, rank: int = 0) -> None:
        self.settings, self.rank = settings, rank
        self.device = torch.device(settings.device)
        settings.folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer = self._tokenizer()
        self.supply = Supply(settings, rank)
        self.config = model_config(self.tokenizer, **settings.model)
        self.flat = Flat.of(initial(self.config, settings.seed), self.device, torch.bfloat16)
        self.missing = self._start()
        self.optimiser = Optimiser(self.flat, rank, settings.processes)
        self.parameters = self.flat.leaves()
        self.network = Network(self.config, self.parameters)
        self.step = 0
        self.meter = Meter()
        self.resumed = self._resume()

    def _tokenizer(self) -> Tokenizer:
        path = self.settings.folder / "tokenizer.json"
        if not path.exists():
            tokenizer = train_tokenizer(self.settings.seed)
            temporary = path.with_suffix(f".{self.rank}")
            tokenizer.save(str(temporary))
            temporary.replace(path)
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
        temporary.replace(self.checkpoint)

    def loss(self, batch: Batch, talk: bool) -> Tensor:
        rows, columns = (side // 16 for side in batch.pixels.shape[1:3])
        seen = self.network.see(patches(batch.pixels), rows, columns, MIDDLE_BLOCK)
        parts, (char, place) = heads.patch_loss(seen.middle, batch.characters, ("aux.0", "aux.2"), self.parameters)
        more, (role,) = heads.patch_loss(seen.final, batch.characters, ("aux.1",), self.parameters)
        label = heads.label_loss(seen.tokens, batch.labels, self.parameters)
        self.meter.add(
            char=char, place=place, role=role, label_role=label.role, letters=label.letters, label=label.whole
        )
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

    def train_step(self, batch: Batch | None = None) -> float:
        """One step on `batch`, or on the one that is due; returns the norm of the gradients."""
        torch.manual_seed(1_000_003 * (self.settings.seed + 1) + 2 * self.step + self.rank)
        batch = (batch or self.supply.batch(self.step)).to(self.device)
        self.loss(batch, self.step >= self.settings.vision_steps).backward()
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
        for batch in self.supply.batches(self.step):
            norm = self.train_step(batch)
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


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Holds `folder` for this run: two runs would overwrite each other's checkpoints. Exits if another one has it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(f"another run is training in {folder}; stop it first, or name another --folder")
        yield


def work(rank: int, settings: Settings, meeting: str) -> None:
    if settings.processes > 1:
        die_with_parent()  # ranks that outlive a killed run would go on and save over the next one
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
    settings = Settings(**vars(parser.parse_args(arguments)))
    return settings if settings.device == "cpu" else dataclasses.replace(settings, processes=1)


def main(arguments: Sequence[str] | None = None) -> None:
    settings = parse(arguments)
    with alone(settings.folder), tempfile.TemporaryDirectory() as folder:
        meeting = str(Path(folder) / "meeting")
        if settings.processes == 1:
            work(0, settings, meeting)
        else:
            start_processes(work, (settings, meeting), nprocs=settings.processes)


if __name__ == "__main__":
    main()
