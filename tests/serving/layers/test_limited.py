from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, replace

import httpx
import pytest

from serving.access.grant import Grant, Quota
from serving.access.quota import LocalLedger
from serving.errors import (
    ConcurrencyExceeded,
    GenerationFailed,
    QuotaExceeded,
    RequestQuotaExceeded,
    TokenQuotaExceeded,
)
from serving.generation import Caller, Chunk, Generation, Image, Message, Part, Sampling, Text
from serving.layers.limited import Limited, estimated
from serving.settings import Settings
from tests.fakes import FakeEngine
from tests.serving.conftest import PATH
from tests.serving.wire import chat

FREE = Quota()


@dataclass
class Clock:
    now: float = 1_000.0

    def __call__(self) -> float:
        return self.now


def question(quota: Quota, *, key: str = "k", images: int = 0, text: str = "hi") -> Generation:
    parts: tuple[Part, ...] = (Text(text), *(Image("data:,") for _ in range(images)))
    caller = Caller(key, key, Grant(quota=quota))
    return Generation("r", caller, "m", (Message("user", parts),), Sampling(max_tokens=10))


def limited(engine: FakeEngine, overall: Quota = FREE, clock: Clock | None = None) -> Limited:
    return Limited(engine, LocalLedger(clock=clock or Clock()), overall)


async def consume(layer: Limited, asked: Generation) -> list[Chunk]:
    async with aclosing(layer.generate(asked)) as chunks:
        return [chunk async for chunk in chunks]


@pytest.mark.parametrize(
    ("quota", "images", "refusal", "said"),
    [
        (Quota(rpm=1), 0, RequestQuotaExceeded, "limited to 1 requests per minute"),
        (Quota(ipm=2), 2, RequestQuotaExceeded, "limited to 2 images per minute"),
        (Quota(tpm=12), 0, TokenQuotaExceeded, "limited to 12 tokens per minute"),
    ],
)
@pytest.mark.parametrize("holder", ["This API key", "This server"])
async def test_the_next_one_in_a_minute_is_refused(
    quota: Quota, images: int, refusal: type[QuotaExceeded], said: str, holder: str
) -> None:
    clock, engine = Clock(), FakeEngine()
    own, overall = (quota, Quota()) if holder == "This API key" else (Quota(), quota)
    layer = limited(engine, overall, clock)
    await consume(layer, question(own, images=images))
    with pytest.raises(refusal) as raised:
        await consume(layer, question(own, images=images))
    assert f"{holder} is {said}" in raised.value.message
    assert raised.value.retry_after is not None
    assert len(engine.history) == 1
    clock.now += raised.value.retry_after
    await consume(layer, question(own, images=images))


async def test_more_images_than_a_minute_has_are_never_let_in() -> None:
    with pytest.raises(RequestQuotaExceeded) as raised:
        await consume(limited(FakeEngine()), question(Quota(ipm=2), images=3))
    assert raised.value.retry_after is None
    assert "The request has 3." in raised.value.message


async def test_requests_at_a_time_however_the_stream_ends() -> None:
    engine, gate = FakeEngine(), asyncio.Event()
    layer, asked = limited(engine), question(Quota(concurrency=1))
    engine.enqueue("a", gate=gate, gated_from=2)
    stream = layer.generate(asked)
    await anext(stream)
    with pytest.raises(ConcurrencyExceeded) as raised:
        await consume(layer, asked)
    assert raised.value.retry_after == 1
    await stream.aclose()
    engine.enqueue("a", error=GenerationFailed())
    with pytest.raises(GenerationFailed):
        await consume(layer, asked)
    await consume(layer, asked)


async def test_tokens_are_settled_by_the_engines_count() -> None:
    engine = FakeEngine()
    layer, asked = limited(engine), question(Quota(tpm=1_000))
    engine.enqueue(*["a"] * 500, input_tokens=490)
    await consume(layer, asked)
    with pytest.raises(TokenQuotaExceeded):
        await consume(layer, question(Quota(tpm=1_000)))


async def test_a_stream_that_is_left_is_charged_for_what_came() -> None:
    engine = FakeEngine()
    layer = limited(engine)
    engine.enqueue(*["a"] * 500, input_tokens=100)
    stream = layer.generate(question(Quota(tpm=1_000)))
    await anext(stream)
    await stream.aclose()
    engine.enqueue("b", input_tokens=880)
    await consume(layer, question(Quota(tpm=1_000), text="x" * 2400))
    with pytest.raises(TokenQuotaExceeded):
        await consume(layer, question(Quota(tpm=1_000), text="x" * 300))


async def test_what_the_engine_refused_costs_no_tokens() -> None:
    engine = FakeEngine()
    layer, asked = limited(engine), question(Quota(tpm=300), text="x" * 800)
    engine.enqueue(error=GenerationFailed())
    with pytest.raises(GenerationFailed):
        await consume(layer, asked)
    await consume(layer, asked)


async def test_background_work_waits_elsewhere() -> None:
    layer = limited(FakeEngine(), Quota(rpm=1))
    for _ in range(3):
        await consume(layer, replace(question(Quota(rpm=1)), priority="background"))
    await consume(layer, question(Quota(rpm=1)))


def test_the_estimate_knows_texts_images_and_answers() -> None:
    asked = question(Quota(), images=2, text="营收数据" * 30)
    assert estimated(asked) == 121 + 2 * 1280 + 10
    assert estimated(replace(asked, sampling=Sampling(n=2))) == 121 + 2 * 1280 + 2 * 512


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"limit_rpm": 1})


async def test_a_client_is_told_in_the_clouds_words(client: httpx.AsyncClient) -> None:
    assert (await client.post(PATH, json=chat())).status_code == 200
    refused = await client.post(PATH, json=chat())
    assert (refused.status_code, refused.json()["code"]) == (429, "Throttling.RateQuota")
    assert 1 <= int(refused.headers["retry-after"]) <= 62
    body = {"model": "qwen3-vl-30b", "messages": [{"role": "user", "content": "hi"}]}
    compatible = await client.post("/v1/chat/completions", json=body)
    assert (compatible.status_code, compatible.json()["error"]["code"]) == (429, "limit_requests")
