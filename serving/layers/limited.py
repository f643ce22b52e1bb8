from __future__ import annotations

import math
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from typing import Literal

from serving.access.grant import Quota
from serving.access.quota import Charge, Exhausted, Ledger, LedgerAway, Receipt, Resource
from serving.engine.base import Engine
from serving.errors import (
    ConcurrencyExceeded,
    QuotaExceeded,
    RequestQuotaExceeded,
    StorageUnavailable,
    TokenQuotaExceeded,
)
from serving.generation import Caller, Chunk, Generation, Text
from serving.layers.layer import Layer

SERVER = "*"
"""Holds the quota of all keys together."""
BYTES_PER_TOKEN = 3
"""Of UTF-8: English has four a token, Chinese three to five, JSON two to three."""
IMAGE_TOKENS, VIDEO_TOKENS = 1280, 8192
"""What is charged for one whose size is not known yet; the cloud's own pixel policy brings an image to at most 2562."""
ANSWER_TOKENS = 512
"""What is charged for an answer that may be longer: most are shorter, and the rest is settled at its end."""
SOON = 1
"""Seconds after which to ask again for a place: nobody knows when one comes free."""

WORDS = {
    "requests": (RequestQuotaExceeded, "requests per minute"),
    "images": (RequestQuotaExceeded, "images per minute"),
    "tokens": (TokenQuotaExceeded, "tokens per minute"),
    "concurrency": (ConcurrencyExceeded, "requests at a time"),
}


class Limited(Layer):
    """Charges each interactive generation to its key's quota and to the server's, all or nothing.

    Tokens are charged by estimate and settled by the engine's count when the stream ends, however it does; a request
    that was never worked on gets its tokens and images back. Background work, which waits its turn anyway, is free.
    """

    def __init__(self, engine: Engine, ledger: Ledger, overall: Quota) -> None:
        super().__init__(engine)
        self._ledger = ledger
        self._overall = overall
        self.refused: Counter[tuple[Resource, Literal["key", "server"]]] = Counter()
        """How often which resource was used up, and whose."""

    async def aclose(self) -> None:
        await super().aclose()
        await self._ledger.aclose()

    def generate(self, generation: Generation) -> AsyncGenerator[Chunk, None]:
        own = generation.caller.grant.quota
        if generation.priority == "background" or (own.unlimited and self._overall.unlimited):
            return self._engine.generate(generation)
        return self._limited(generation, self._charges(generation))

    async def _limited(self, generation: Generation, charges: list[Charge]) -> AsyncGenerator[Chunk, None]:
        receipt = await self._charge(generation.request_id, charges)
        last: Chunk | None = None
        try:
            async with aclosing(self._engine.generate(generation)) as chunks:
                async for chunk in chunks:
                    last = chunk
                    yield chunk
        finally:
            receipt.ledger.settle(receipt, _used(generation, last))

    @asynccontextmanager
    async def counted(self, caller: Caller, request_id: str) -> AsyncGenerator[None, None]:
        """Charges what is a request and no generation. Raises as a generation does."""
        charges = [
            *_charges(caller.grant.quota, caller.key_id, 0, 0),
            *_charges(self._overall, SERVER, 0, 0),
        ]
        receipt = await self._charge(request_id, charges)
        try:
            yield
        finally:
            receipt.ledger.settle(receipt, 0)

    async def _charge(self, request_id: str, charges: list[Charge]) -> Receipt:
        try:
            return await self._ledger.charge(request_id, charges)
        except Exhausted as exhausted:
            charge = exhausted.charge
            self.refused[charge.resource, "server" if charge.holder == SERVER else "key"] += 1
            raise _refusal(exhausted) from None
        except LedgerAway as away:
            raise StorageUnavailable(retry_after=SOON) from away

    def _charges(self, generation: Generation) -> list[Charge]:
        caller = generation.caller
        images = generation.pictures
        tokens = estimated(generation)
        return [
            *_charges(caller.grant.quota, caller.key_id, tokens, images),
            *_charges(self._overall, SERVER, tokens, images),
        ]


def estimated(generation: Generation) -> int:
    """About how many tokens the question and its answer will have."""
    tokens = 0
    for message in generation.messages:
        for part in message.parts:
            if isinstance(part, Text):
                tokens += len(part.text.encode()) // BYTES_PER_TOKEN + 1
    tokens += sum(_known(image.content, IMAGE_TOKENS) for image in generation.images)
    tokens += sum(_known(video.content, VIDEO_TOKENS) for video in generation.videos)
    sampling = generation.sampling
    return tokens + min(sampling.max_tokens or ANSWER_TOKENS, ANSWER_TOKENS) * sampling.n


def _known(content: object, default: int) -> int:
    return getattr(content, "tokens", None) or default


def _charges(quota: Quota, holder: str, tokens: int, images: int) -> list[Charge]:
    """A request of more tokens than a whole minute has is let in when there is nothing beside it: it is an estimate."""
    charges = []
    if quota.concurrency is not None:
        charges.append(Charge("concurrency", holder, quota.concurrency, 1))
    if quota.rpm is not None:
        charges.append(Charge("requests", holder, quota.rpm, 1))
    if quota.ipm is not None and images:
        charges.append(Charge("images", holder, quota.ipm, images))
    if quota.tpm is not None:
        charges.append(Charge("tokens", holder, quota.tpm, min(tokens, quota.tpm)))
    return charges


def _used(generation: Generation, last: Chunk | None) -> int | None:
    """Tokens; None for a generation that the engine never began."""
    if last is None:
        return None
    return last.usage.total_tokens or estimated(generation)


def _refusal(exhausted: Exhausted) -> QuotaExceeded:
    charge = exhausted.charge
    kind, what = WORDS[charge.resource]
    who = "This server" if charge.holder == SERVER else "This API key"
    detail = f"{who} is limited to {charge.limit} {what}."
    if charge.amount > charge.limit:
        return kind(f"{detail} The request has {charge.amount}.")
    return kind(detail, retry_after=SOON if exhausted.wait is None else max(SOON, math.ceil(exhausted.wait)))
