from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

import aiohttp
import msgspec
import pytest

from serving.engine.vllm import VLLM, translated
from serving.errors import (
    ContextTooLong,
    EngineUnavailable,
    GenerationFailed,
    InvalidImage,
    InvalidRequest,
    ServingError,
)
from serving.generation import Caller, Chunk, Generation, Image, Message, Sampling, Text, Usage
from tests.serving.conftest import listening
from tests.serving.engine.fake_vllm import DONE, ROLE, FakeVLLM, event, final, refusal

QUESTION = Generation("r", Caller("k", "test"), "ours", (Message("user", (Text("hi"),)),))
IMAGES = replace(QUESTION, messages=(Message("user", (Image("data:,"), Image("data:,"), Text("hi"))),))
CONTEXT = "This model's maximum context length is 4096 tokens. However, your prompt contains 5000 input tokens"


@pytest.fixture
def fake() -> FakeVLLM:
    return FakeVLLM()


@pytest.fixture
async def vllm(fake: FakeVLLM) -> AsyncGenerator[VLLM, None]:
    async with listening(fake.app) as url:
        engine = VLLM(url + "/v1", key="engine-key")
        await engine.start()
        yield engine
        await engine.aclose()


async def ask(vllm: VLLM, generation: Generation = QUESTION) -> list[Chunk]:
    async with aclosing(vllm.generate(generation)) as chunks:
        return [chunk async for chunk in chunks]


async def test_chunks_then_the_reason_with_the_final_usage(vllm: VLLM, fake: FakeVLLM) -> None:
    fake.answers.append(
        [
            ROLE,
            event("营收"),
            event("增长", completion=2),
            event("", "stop", completion=3),
            final(completion=3, image=60),
            DONE,
        ]
    )
    assert await ask(vllm, IMAGES) == [
        Chunk("营收", Usage(80, 1)),
        Chunk("增长", Usage(80, 2)),
        Chunk("", Usage(80, 3, 60 + 2 * 2), "stop"),
    ]


async def test_it_streams_under_the_engines_own_name(vllm: VLLM, fake: FakeVLLM) -> None:
    fake.models = ["theirs", "lora"]
    fake.answers.append([event("a", "length"), final(), DONE])
    assert (await ask(vllm))[-1].finish_reason == "length"
    assert (fake.asked[0]["model"], fake.asked[0]["stream"]) == ("theirs", True)
    assert fake.headers[0]["authorization"] == "Bearer engine-key"
    assert fake.headers[0]["content-type"] == "application/json"


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
async def test_events_may_be_cut_anywhere(vllm: VLLM, fake: FakeVLLM, size: int) -> None:
    body = b": keep-alive\n\n" + event("数") + event("字", "stop") + final() + DONE
    fake.answers.append([body[at : at + size] for at in range(0, len(body), size)])
    assert "".join(chunk.text for chunk in await ask(vllm)) == "数字"


async def test_a_body_of_megabytes_is_no_warning(vllm: VLLM, fake: FakeVLLM) -> None:
    fake.answers.append([event("a", "stop"), final(), DONE])
    reference = "data:image/png;base64," + "A" * 3_000_000
    await ask(vllm, replace(QUESTION, messages=(Message("user", (Image(reference), Text("hi"))),)))
    assert fake.asked[0]["messages"][0]["content"][0]["image_url"]["url"] == reference


@pytest.mark.parametrize(
    ("status", "message", "error"),
    [
        (400, CONTEXT, ContextTooLong),
        (400, "Input length (5000) exceeds model's maximum context length (4096).", ContextTooLong),
        (400, "max_tokens=32768 cannot be greater than max_model_len=4096. Please request fewer.", ContextTooLong),
        (400, "Failed to load image: cannot identify image file", InvalidImage),
        (400, "At most 250 image(s) may be provided in one prompt.", InvalidRequest),
        (401, "Unauthorized", EngineUnavailable),
        (404, "The model does not exist.", EngineUnavailable),
        (500, "division by zero", GenerationFailed),
        (500, "EngineCore encountered an issue. See stack trace (above) for the root cause.", EngineUnavailable),
        (503, "", EngineUnavailable),
    ],
)
async def test_refusals(vllm: VLLM, fake: FakeVLLM, status: int, message: str, error: type[ServingError]) -> None:
    fake.answers.append((status, refusal(message)))
    with pytest.raises(ServingError) as raised:
        await ask(vllm)
    assert type(raised.value) is error


async def test_the_context_is_named(vllm: VLLM, fake: FakeVLLM) -> None:
    fake.answers.append((400, refusal(CONTEXT)))
    with pytest.raises(ContextTooLong) as raised:
        await ask(vllm)
    assert raised.value.message == "Range of input length should be [1, 4096]"


async def test_what_the_engine_says_of_itself_stays_inside(vllm: VLLM, fake: FakeVLLM) -> None:
    fake.answers.append((500, refusal("File /opt/engine/secret.py line 3")))
    with pytest.raises(GenerationFailed) as raised:
        await ask(vllm)
    assert raised.value.message == "inference internal error."


async def test_max_tokens_beyond_the_context_is_no_error(vllm: VLLM, fake: FakeVLLM) -> None:
    fake.answers += [(400, refusal(CONTEXT)), [event("a", "length"), final(), DONE]]
    chunks = await ask(vllm, replace(QUESTION, sampling=Sampling(max_tokens=4000)))
    assert chunks[-1].finish_reason == "length"
    assert [asked.get("max_tokens") for asked in fake.asked] == [4000, None]


async def test_a_prompt_beyond_the_context_is_one(vllm: VLLM, fake: FakeVLLM) -> None:
    fake.answers += [(400, refusal(CONTEXT)), (400, refusal(CONTEXT))]
    with pytest.raises(ContextTooLong):
        await ask(vllm, replace(QUESTION, sampling=Sampling(max_tokens=4000)))


@pytest.mark.parametrize(
    ("pieces", "error"),
    [
        ([event("a"), b'data: {"error": {"message": "boom", "code": 500}}\n\n', DONE], GenerationFailed),
        ([event("a"), b"data: {not json\n\n", DONE], GenerationFailed),
        ([event("a"), event("", "abort"), final(), DONE], GenerationFailed),
        ([event("a")], EngineUnavailable),
        ([event("a"), b""], EngineUnavailable),
    ],
)
async def test_an_answer_that_breaks_off(
    vllm: VLLM, fake: FakeVLLM, pieces: list[bytes], error: type[ServingError], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "uvicorn.error")
    fake.answers.append(pieces)
    async with aclosing(vllm.generate(QUESTION)) as chunks:
        assert (await anext(chunks)).text == "a"
        with pytest.raises(ServingError) as raised:
            await anext(chunks)
    assert type(raised.value) is error


async def test_closing_the_answer_hangs_up(vllm: VLLM, fake: FakeVLLM) -> None:
    fake.gate = asyncio.Event()
    fake.answers.append([event("a"), event("never", "stop")])
    async with aclosing(vllm.generate(QUESTION)) as chunks:
        await anext(chunks)
    await asyncio.wait_for(fake.left.wait(), 1)


async def test_nobody_there() -> None:
    engine = VLLM("http://127.0.0.1:9")
    with pytest.raises(EngineUnavailable):
        await ask(engine)
    await engine.start()
    assert not await engine.ready()
    with pytest.raises(EngineUnavailable) as raised:
        await ask(engine)
    assert raised.value.retry_after == 5
    await engine.aclose()


async def test_ready_when_it_serves_a_model(vllm: VLLM, fake: FakeVLLM) -> None:
    assert await vllm.ready()
    fake.models = []
    assert not await vllm.ready()


async def test_not_ready_when_its_server_outlives_its_engine(vllm: VLLM, fake: FakeVLLM) -> None:
    """Seen when the engine process is killed: for a second or two the server still lists its models."""
    fake.alive = False
    assert not await vllm.ready()


@pytest.mark.parametrize(
    "error",
    [
        aiohttp.ClientConnectionError(),
        aiohttp.ServerDisconnectedError(),
        aiohttp.ClientPayloadError(),
        aiohttp.ServerTimeoutError(),
        ConnectionResetError(),
        TimeoutError(),
    ],
)
def test_every_transport_error_is_translated(error: Exception) -> None:
    with pytest.raises(EngineUnavailable), translated("http://engine"):
        raise error


def test_an_answer_that_is_no_text_stays_out_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(GenerationFailed), translated("http://engine"):
        msgspec.json.decode(b'"Revenue was \xff"')
    assert "no event" in caplog.text
    assert "Revenue" not in caplog.text
