"""Charts and dialogues as tensors: several dialogues about one image share its tokens in one row."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from serving.demo import dialogues, heads
from serving.demo.charts.canvas import Drawing
from serving.demo.charts.chart import UNITS, Chart
from serving.demo.network import rounded
from serving.demo.pixels import FACTOR, fit
from serving.demo.vocabulary import SYSTEM_PROMPTS

PREFIX = 0
PADDING = -1
FIGURE_WEIGHT = 1.0
WORD_WEIGHT = 0.25


@dataclass(frozen=True)
class Picture:
    chart: Chart
    pixels: np.ndarray  # uint8 [H, W, 3]
    targets: heads.Targets


def picture(chart: Chart, drawing: Drawing) -> Picture:
    """`drawing` as the model sees it, with what its heads must answer."""
    image = fit(drawing.image)
    fx, fy = image.width / drawing.image.width, image.height / drawing.image.height
    labels = [label.scaled(fx, fy) for label in drawing.labels]
    return Picture(chart, np.asarray(image), heads.targets(labels, image.width, image.height))


class Chat:
    """Token ids of the chat format."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        token: dict[str, int] = tokenizer.get_vocab()
        self.start, self.end, self.image = token["<|im_start|>"], token["<|im_end|>"], token["<|image_pad|>"]
        self.vision_start, self.vision_end = token["<|vision_start|>"], token["<|vision_end|>"]
        self.padding = token["<|endoftext|>"]
        units = [tokenizer.encode(f'"{unit}"').ids[1:-1] for each in UNITS.values() for unit in each]
        # Signs and the ends of numbers hide in punctuation: it counts as much as digits do.
        wordless = {i for text, i in token.items() if not any(letter.isalpha() for letter in text)}
        self.figures = frozenset(wordless.union(*units))
        self.user = [self.start, *self.ids("user\n")]
        self.answering = [self.end, *self.ids("\n"), self.start, *self.ids("assistant\n")]

    @functools.lru_cache(maxsize=100_000)  # noqa: B019 - one Chat lives as long as its process
    def ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def system(self, rng: random.Random) -> list[int]:
        if rng.random() > 0.15:
            return []
        return [self.start, *self.ids(f"system\n{rng.choice(SYSTEM_PROMPTS)}"), self.end, *self.ids("\n")]

    def length(self, exchange: dialogues.Exchange) -> int:
        return len(self.ids(exchange.question)) + len(self.answering) + len(self.ids(exchange.answer)) + 1


@dataclass
class Row:
    """One row of a batch. Segment PREFIX is seen by all segments, any other by itself alone."""

    chat: Chat
    ids: list[int] = field(default_factory=list)
    places: list[tuple[int, int, int]] = field(default_factory=list)
    segments: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    next: int = 0

    def add(self, ids: Sequence[int], segment: int, learned: bool = False) -> None:
        self.ids += ids
        self.places += [(self.next + i,) * 3 for i in range(len(ids))]
        self.segments += [segment] * len(ids)
        figures = self.chat.figures
        self.weights += [(FIGURE_WEIGHT if i in figures else WORD_WEIGHT) if learned else 0.0 for i in ids]
        self.next += len(ids)

    def image(self, rows: int, columns: int, segment: int = PREFIX) -> None:
        """The tokens of an image of `rows` x `columns` merged tokens."""
        self.add([self.chat.vision_start], segment)
        self.ids += [self.chat.image] * (rows * columns)
        self.places += [(self.next, self.next + y, self.next + x) for y in range(rows) for x in range(columns)]
        self.segments += [segment] * (rows * columns)
        self.weights += [0.0] * (rows * columns)
        self.next += max(rows, columns)
        self.add([self.chat.vision_end], segment)

    def exchange(self, exchange: dialogues.Exchange, segment: int, begin: int) -> None:
        """Question and answer from position `begin` on."""
        self.next = begin
        self.add([*self.chat.ids(exchange.question), *self.chat.answering], segment)
        self.add([*self.chat.ids(exchange.answer), self.chat.end], segment, learned=True)


@dataclass(frozen=True)
class Batch:
    """R rows of S tokens over the images of `pictures`, in their order.

    ids [R, S]; positions [3, R, S]; mask [R, 1, S, S], added to scores; image_places: flat places of image
    tokens; sources: flat places whose next token is learned; truth, weights: that token and what it counts;
    pixels uint8 [B, H, W, 3]; characters, labels: see heads.Targets.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    image_places: Tensor
    sources: Tensor
    truth: Tensor
    weights: Tensor
    pixels: Tensor
    characters: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> Batch:
        return Batch(**{name: tensor.to(device) for name, tensor in vars(self).items()})


def single_row(chat: Chat, picture: Picture, rng: random.Random, room: int) -> Row:
    """One image and as many exchanges about it as fit."""
    rows, columns = (side // FACTOR for side in picture.pixels.shape[:2])
    if rng.random() < 0.06:
        row = question_first_row(chat, picture, rng)
        if len(row.ids) <= room:
            return row
    row, segment = Row(chat), 1
    row.add([*chat.system(rng), *chat.user], PREFIX)
    row.image(rows, columns)
    begin, tries = row.next, 0
    while tries < 4:
        task: dialogues.Task | None = "json" if segment == 1 and rng.random() < 0.5 else None
        exchange = dialogues.draw_exchange(picture.chart, rng, task)
        if len(row.ids) + chat.length(exchange) > room:
            tries += 1
            continue
        row.exchange(exchange, segment, begin)
        segment += 1
    return row


def question_first_row(chat: Chat, picture: Picture, rng: random.Random) -> Row:
    row, segment = Row(chat), 1
    exchange = dialogues.draw_exchange(picture.chart, rng)
    row.add([*chat.system(rng), *chat.user, *chat.ids(exchange.question)], segment)
    rows, columns = (side // FACTOR for side in picture.pixels.shape[:2])
    row.image(rows, columns, segment)
    row.add(chat.answering, segment)
    row.add([*chat.ids(exchange.answer), chat.end], segment, learned=True)
    return row


def pair_row(chat: Chat, first: Picture, second: Picture, rng: random.Random, room: int) -> Row:
    row, segment = Row(chat), 1
    row.add([*chat.system(rng), *chat.user], PREFIX)
    for each in (first, second):
        row.image(*(side // FACTOR for side in each.pixels.shape[:2]))
    begin = row.next
    while True:
        exchange = dialogues.draw_comparison(first.chart, second.chart, rng)
        if len(row.ids) + chat.length(exchange) > room:
            return row
        row.exchange(exchange, segment, begin)
        segment += 1


def imageless_row(chat: Chat, rng: random.Random, room: int) -> Row:
    row, segment = Row(chat), 1
    while True:
        exchange, opening = dialogues.draw_refusal(rng), [*chat.system(rng), *chat.user]
        if len(row.ids) + len(opening) + chat.length(exchange) > room:
            return row
        row.next = 0
        row.add(opening, segment)
        row.exchange(exchange, segment, row.next)
        segment += 1


def compose(chat: Chat, pictures: Sequence[Picture], rng: random.Random, room: int) -> list[Row]:
    """Rows over all `pictures` in order: a quarter of them share rows by two, one row has no image."""
    paired = 2 * -(-len(pictures) // 8) if len(pictures) > 3 else 0
    rows = [pair_row(chat, pictures[i], pictures[i + 1], rng, room) for i in range(0, paired, 2)]
    rows += [single_row(chat, each, rng, room) for each in pictures[paired:]]
    return [*rows, imageless_row(chat, rng, room)]


def collate(chat: Chat, rows: Sequence[Row], pictures: Sequence[Picture], length: int) -> Batch:
    count = len(rows)
    ids = torch.full((count, length), chat.padding)
    positions = torch.zeros(3, count, length, dtype=torch.long)
    segments = torch.full((count, length), PADDING)
    weights = torch.zeros(count, length)
    for index, row in enumerate(rows):
        used = len(row.ids)
        ids[index, :used] = torch.tensor(row.ids)
        positions[:, index, :used] = torch.tensor(row.places).T
        segments[index, :used] = torch.tensor(row.segments)
        weights[index, :used] = torch.tensor(row.weights)
    shared, own = segments[:, None, :].eq(PREFIX), segments[:, None, :].eq(segments[:, :, None])
    seen = (shared | own) & torch.ones(length, length, dtype=torch.bool).tril()
    learned = weights[:, 1:].reshape(-1).nonzero()[:, 0]
    count_learned = len(learned)
    learned = F.pad(learned, (0, rounded(len(learned)) - len(learned)), value=length - 2)
    sources = learned // (length - 1) * length + learned % (length - 1)
    return Batch(
        ids=ids,
        positions=positions,
        mask=torch.zeros(count, 1, length, length, dtype=torch.bfloat16).masked_fill_(~seen[:, None], -1e4),
        image_places=ids.view(-1).eq(chat.image).nonzero()[:, 0],
        sources=sources,
        truth=ids.view(-1)[sources + 1],
        weights=weights.view(-1)[sources + 1] * (torch.arange(len(sources)) < count_learned),
        pixels=torch.from_numpy(np.stack([each.pixels for each in pictures])),
        characters=torch.from_numpy(np.stack([each.targets.characters for each in pictures])),
        labels=torch.from_numpy(np.stack([each.targets.labels for each in pictures])),
    )
