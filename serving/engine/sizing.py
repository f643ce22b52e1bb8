"""How many GPUs a load wants: a model of Qwen3-VL-30B-A3B by the operations and bytes that an answer costs.

The model's shape is that of its config.json. Prefill is bound by arithmetic, decoding by memory bandwidth; of each only
a part is reached in practice (`MFU`, `BANDWIDTH_SHARE`). Requests disturb each other only by taking their turn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from serving.engine.plan import ACTIVATIONS_GIB, BF16_GIB, FP8_GIB, MEMORY_SHARE

Precision = Literal["bf16", "fp8"]

GIB = 2**30
MFU = 0.45
BANDWIDTH_SHARE = 0.70
"""Of what the card's data sheet says, what good engines reach with models like this one."""
UTILISATION = 0.70
"""Of what a replica can answer, how much it is planned to be asked: the rest is for bursts."""
IN_FLIGHT = 256
"""--max-num-seqs"""
PAGES_PER_SERVER = 14.0
"""Pages of 2 megapixels that one of vLLM's API servers prepares in a second, on a fast CPU core."""
API_SERVERS = 4
PAGE_PIXELS = 1280 * 1664
VISION_TOKEN_PIXELS = 32 * 32
CONTEXT, LONGEST_CONTEXT = 32_768, 262_144
"""--max-model-len where requests are shorter, and the most that the model was made for."""

# Operations: for a token through the language model, for each token it looks back at, for a patch of 16 x 16 pixels
# through the vision tower, for each patch that it looks at, and for a vision token through the mergers.
TOKEN, TOKEN_PAIR = 5.46e9, 0.79e6
PATCH, PATCH_PAIR = 0.83e9, 0.124e6
MERGERS = 0.25e9
# Bytes in bf16: attention, routers and head, read at every step, and all experts, of which a batch reads its share.
DENSE_BYTES, EXPERT_BYTES = 2.46e9, 58.0e9
EXPERTS_CHOSEN = 8 / 128
KV_BYTES = 98_304
"""For a token of context: 48 layers x 2 x 4 heads x 128 x 2 bytes."""


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU by its data sheet: dense operations a second, bytes a second, GiB."""

    name: str
    bf16: float
    fp8: float | None
    bandwidth: float
    memory_gib: float


CARDS = {
    card.name: card
    for card in (
        Card("A100-80", 312e12, None, 2.04e12, 79.3),
        Card("L40S", 362e12, 733e12, 0.864e12, 44.7),
        Card("H20", 148e12, 296e12, 4.0e12, 95.6),
        Card("H100", 989e12, 1979e12, 3.35e12, 79.1),
        Card("H200", 989e12, 1979e12, 4.8e12, 139.8),
        Card("B200", 2250e12, 4500e12, 8.0e12, 179.0),
    )
}


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked, on average: vision tokens, text tokens beside them, tokens of the answer."""

    vision: int
    text: int
    output: int

    @property
    def context(self) -> float:
        """Tokens that a step of decoding looks back at, on average."""
        return self.vision + self.text + self.output / 2

    @property
    def tokens(self) -> int:
        """All of them, at the end."""
        return self.vision + self.text + self.output

    @property
    def preparing_s(self) -> float:
        """Seconds of a CPU core until the images are ready for the GPU."""
        return self.vision * VISION_TOKEN_PIXELS / PAGE_PIXELS / PAGES_PER_SERVER


@dataclass(frozen=True, slots=True)
class Size:
    """The answer. Rates in requests a second, times in seconds."""

    card: Card
    precision: Precision
    cards_per_replica: int
    replicas: int
    rate_per_replica: float
    kv_tokens: int
    max_in_flight: int
    max_context: int
    in_flight: int
    first_token_s: float
    mean_s: float
    p99_s: float
    limit: Literal["the GPU", "the CPU: preparing images"]


class DoesNotFit(Exception):
    """Raised when the weights or the request do not fit; the message names what would."""


def size(card: Card, request: Request, rate: float, precision: Precision, *, measured: float | None = None) -> Size:
    """`measured` is what one replica was found to answer in a second, in place of the model's estimate."""
    cards = _cards(card, precision, request)
    kv_tokens = int(_room_gib(card, precision, cards) * GIB / KV_BYTES)
    most = max(1, min(IN_FLIGHT, int(kv_tokens / request.tokens)))
    modelled = throughput(card, request, precision, most, cards)
    prepared = API_SERVERS / request.preparing_s if request.vision else math.inf
    capacity = measured or min(modelled, prepared)
    replicas = max(1, math.ceil(rate / (capacity * UTILISATION)))
    share = rate / replicas
    slower = modelled / capacity
    in_flight = _in_flight(card, request, precision, cards, share * slower, most)

    def first_token_s(batch: int) -> float:
        """Images are prepared, prompts before it take their turn, and the step that is under way ends first."""
        prefill = prefill_s(card, request, precision, cards) * (1 + share / capacity)
        return request.preparing_s + (prefill + step_s(card, request, precision, batch, cards)) * slower

    def answer_s(batch: int) -> float:
        decoding = request.output * step_s(card, request, precision, batch, cards) * slower
        return max(first_token_s(batch) + decoding, batch / throughput(card, request, precision, batch, cards) * slower)

    # As many are there on average as come while one is answered; one that comes finds more in 1 % of the cases.
    mean_s = answer_s(in_flight)
    load = min(share * mean_s, float(most))
    crowd = max(in_flight, min(most, math.ceil(load + 2.33 * math.sqrt(load))))
    return Size(
        card,
        precision,
        cards,
        replicas,
        capacity,
        kv_tokens,
        most,
        max(CONTEXT, -(-request.tokens // 1024) * 1024),
        in_flight,
        first_token_s(in_flight),
        mean_s,
        answer_s(crowd),
        "the GPU" if measured or modelled <= prepared else "the CPU: preparing images",
    )


def throughput(card: Card, request: Request, precision: Precision, batch: int, cards: int = 1) -> float:
    """Requests a second with so many in flight."""
    decoding = request.output * step_s(card, request, precision, batch, cards) / batch
    return 1 / (prefill_s(card, request, precision, cards) + decoding)


def prefill_s(card: Card, request: Request, precision: Precision, cards: int = 1) -> float:
    """Seconds of one card's arithmetic for the prompt of one request; FP8 speeds the language model's share."""
    tokens, patches = request.vision + request.text, request.vision * 4
    linear, looking = TOKEN * tokens, TOKEN_PAIR * tokens * tokens / 2
    seeing = patches * (PATCH + PATCH_PAIR * patches) + MERGERS * request.vision
    fast = card.fp8 if precision == "fp8" and card.fp8 else card.bf16
    return (linear / fast + (looking + seeing) / card.bf16) / MFU / cards


def step_s(card: Card, request: Request, precision: Precision, batch: int, cards: int = 1) -> float:
    """Seconds of one step of decoding: a token for each request of the batch."""
    touched = 1 - (1 - EXPERTS_CHOSEN) ** batch
    weights = DENSE_BYTES + EXPERT_BYTES * touched * (0.5 if precision == "fp8" else 1)
    return (weights + batch * request.context * KV_BYTES) / (card.bandwidth * BANDWIDTH_SHARE) / cards


def _in_flight(card: Card, request: Request, precision: Precision, cards: int, rate: float, most: int) -> int:
    """The least number in flight at which so many a second are answered."""
    enough = (batch for batch in range(1, most + 1) if throughput(card, request, precision, batch, cards) >= rate)
    return next(enough, most)


def _room_gib(card: Card, precision: Precision, cards: int) -> float:
    weights = FP8_GIB if precision == "fp8" else BF16_GIB
    return cards * (card.memory_gib * MEMORY_SHARE - ACTIVATIONS_GIB) - weights


def _cards(card: Card, precision: Precision, request: Request) -> int:
    if precision == "fp8" and card.fp8 is None:
        raise DoesNotFit(f"{card.name} has no FP8 units (compute capability 8.9 and newer do); take --precision bf16")
    if request.tokens > LONGEST_CONTEXT:
        raise DoesNotFit(f"the model takes {LONGEST_CONTEXT:,} tokens at most, such a request has {request.tokens:,}")
    needed = request.tokens * KV_BYTES * 8 / GIB
    for cards in (1, 2, 4, 8):
        if _room_gib(card, precision, cards) >= needed:
            return cards
    raise DoesNotFit(f"8 x {card.name} do not hold the weights and eight such requests; send smaller images")
