from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from serving.demo.pixels import fitted_size

MOST_TOKENS = 256


@dataclass(frozen=True)
class Query:
    """A message: images, then a question about them."""

    images: tuple[Image.Image, ...]
    question: str


@dataclass(frozen=True)
class Answer:
    text: str
    tokens: tuple[int, ...]


def data_uri(image: Image.Image) -> str:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def request(query: Query, model: str) -> dict[str, Any]:
    images = [{"type": "image_url", "image_url": {"url": data_uri(image)}} for image in query.images]
    message = {"role": "user", "content": [*images, {"type": "text", "text": query.question}]}
    return {
        "model": model,
        "messages": [message],
        "temperature": 0,
        "max_tokens": MOST_TOKENS,
        "return_token_ids": True,
    }


async def ask_server(url: str, model: str, key: str, queries: Sequence[Query], concurrency: int = 8) -> list[Answer]:
    """Greedy answers of an OpenAI-compatible server. vLLM adds the tokens' ids, others leave them empty."""
    gate = asyncio.Semaphore(concurrency)

    async def ask(query: Query) -> Answer:
        async with gate:
            reply = await client.post(f"{url.rstrip('/')}/chat/completions", json=request(query, model))
        reply.raise_for_status()
        choice = reply.json()["choices"][0]
        return Answer(choice["message"]["content"], tuple(choice.get("token_ids") or ()))

    async with httpx.AsyncClient(timeout=600, headers={"Authorization": f"Bearer {key}"}) as client:
        return list(await asyncio.gather(*(ask(query) for query in queries)))


def ask_transformers(folder: Path, queries: Sequence[Query], batch: int = 24) -> list[Answer]:
    """Greedy answers of the transformers class. Queries of one length share a batch, so that nothing is padded."""
    import torch

    from serving.engine import vision_operators

    vision_operators.define_missing()
    from transformers import AutoProcessor, Qwen3VLMoeForConditionalGeneration

    model = Qwen3VLMoeForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16).eval()
    processor: Any = AutoProcessor.from_pretrained(folder)
    answers: dict[int, Answer] = {}
    for places in alike(queries, batch):
        chats = [[{"role": "user", "content": content(queries[i])}] for i in places]
        inputs = processor.apply_chat_template(
            chats, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        with torch.no_grad():
            grown = model.generate(**inputs, max_new_tokens=MOST_TOKENS, do_sample=False)
        for place, tokens in zip(places, grown[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
            kept = until_end(tokens, model.config.text_config.eos_token_id)
            answers[place] = Answer(processor.tokenizer.decode(kept, skip_special_tokens=True), tuple(kept))
    return [answers[i] for i in range(len(queries))]


def content(query: Query) -> list[dict[str, Any]]:
    """The parts of a message as a processor's chat template takes them."""
    return [*({"type": "image", "image": image} for image in query.images), {"type": "text", "text": query.question}]


def until_end(tokens: list[int], end: int) -> list[int]:
    """Tokens up to and including `end`: a batch goes on until its last answer ends."""
    return tokens[: tokens.index(end) + 1] if end in tokens else tokens


def alike(queries: Sequence[Query], batch: int) -> Iterator[list[int]]:
    """Places of queries with the same question and sizes of images, at most `batch` at a time."""
    groups: dict[Hashable, list[int]] = {}
    for place, query in enumerate(queries):
        sizes = tuple(fitted_size(*image.size) for image in query.images)
        groups.setdefault((query.question, sizes), []).append(place)
    for places in groups.values():
        for start in range(0, len(places), batch):
            yield places[start : start + batch]


def agreement(one: Sequence[Answer], other: Sequence[Answer]) -> int:
    """How many answers are the same token for token, or letter for letter where a side gave no tokens."""
    return sum(
        a.tokens == b.tokens if a.tokens and b.tokens else a.text == b.text for a, b in zip(one, other, strict=True)
    )
