from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from serving.engine import wire
from serving.engine.refusals import refusal as refusal_of
from serving.engine.remote import translated
from serving.engine.vllm import VLLM
from serving.engine.wire import Broken
from serving.errors import (
    ContextTooLong,
    EngineUnavailable,
    GenerationFailed,
    InvalidImage,
    InvalidRequest,
    Overloaded,
    ServingError,
)
from serving.generation import (
    Caller,
    Chunk,
    Generation,
    Image,
    ImageContent,
    Message,
    Sampling,
    Text,
    Thinking,
    TokenLogprob,
    ToolCallDelta,
    Usage,
    Video,
    VideoContent,
)
from tests.serving.conftest import listening
from tests.serving.engine.fake_vllm import DONE, ROLE, FakeVLLM, data, event, final, refusal

QUESTION = Generation("r", Caller("k", "test"), "ours", (Message("user", (Text("hi"),)),))
IMAGES = replace(QUESTION, messages=(Message("user", (Image("data:,"), Image("data:,"), Text("hi"))),))
CONTEXT = "This model's maximum context length is 4096 tokens. However, your prompt contains 5000 input tokens"


@pytest.fixture
def fake() -> FakeVLLM:
    return FakeVLLM()


@pytest.fixture
async def vllm(fake: FakeVLLM, ring3: None) -> AsyncGenerator[VLLM, None]:
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


THINKING = replace(QUESTION, thinking=Thinking(True))
TWO = replace(QUESTION, sampling=Sampling(n=2))


async def test_thoughts_come_apart_and_are_counted(vllm: VLLM, fake: FakeVLLM) -> None:
    fake.answers.append(
        [
            event(delta={"reasoning": "Hm"}, completion=1, reasoning=1),
            event(delta={"reasoning_content": "m"}, completion=2, reasoning=2),
            event("Yes", completion=4, reasoning=2),
            event("", "stop", completion=5, reasoning=2),
            final(completion=5, reasoning=2),
            DONE,
        ]
    )
    assert await ask(vllm, THINKING) == [
        Chunk("", Usage(80, 1, 0, reasoning_tokens=1), reasoning="Hm"),
        Chunk("", Usage(80, 2, 0, reasoning_tokens=2), reasoning="m"),
        Chunk("Yes", Usage(80, 4, 0, reasoning_tokens=2)),
        Chunk("", Usage(80, 5, 0, reasoning_tokens=2), "stop"),
    ]


async def test_only_the_answer_of_a_thinking_model_is_held_to_max_tokens(vllm: VLLM, fake: FakeVLLM) -> None:
    thoughts = [event(delta={"reasoning": "m"}, completion=count, reasoning=count) for count in (1, 2, 3)]
    words = [event("a", completion=3 + count, reasoning=3) for count in (1, 2, 3)]
    fake.answers.append([*thoughts, *words])
    chunks = await ask(vllm, replace(THINKING, sampling=Sampling(max_tokens=2)))
    assert "".join(chunk.text for chunk in chunks) == "aa"
    assert chunks[-1].finish_reason == "length"
    assert fake.asked[0]["max_tokens"] > 2


def calling(finish: str | None = None, **call: Any) -> bytes:
    return event(finish=finish, delta={"tool_calls": [{"type": "function", "index": 0, **call}]})


@pytest.mark.parametrize("reason", ["stop", "tool_calls"])
async def test_tool_calls(vllm: VLLM, fake: FakeVLLM, reason: str) -> None:
    """vLLM ends a call that was forced by name with "stop"."""
    fake.answers.append(
        [
            calling(id="call_1", function={"name": "look", "arguments": ""}),
            calling(function={"arguments": '{"page":1}'}),
            event("", reason, completion=3),
            final(completion=3),
            DONE,
        ]
    )
    first, second, last = await ask(vllm)
    assert first.tool_calls == (ToolCallDelta(0, "", "call_1", "look"),)
    assert second.tool_calls == (ToolCallDelta(0, '{"page":1}'),)
    assert last.finish_reason == "tool_calls"


async def test_answers_that_end_apart(vllm: VLLM, fake: FakeVLLM) -> None:
    fake.answers.append(
        [
            event("a", index=1),
            event("b", index=0),
            event("", "stop", index=1, completion=2),
            event("b", "length", index=0, completion=2),
            final(completion=4),
            DONE,
        ]
    )
    chunks = await ask(vllm, TWO)
    assert [(chunk.choice, chunk.text, chunk.finish_reason, chunk.usage.output_tokens) for chunk in chunks] == [
        (1, "a", None, 1),
        (0, "b", None, 2),
        (1, "", "stop", 3),
        (0, "b", None, 4),
        (0, "", "length", 4),
    ]


async def test_one_answer_of_two_is_none(vllm: VLLM, fake: FakeVLLM) -> None:
    fake.answers.append([event("a", "stop", index=0), final(), DONE])
    with pytest.raises(EngineUnavailable):
        await ask(vllm, TWO)


async def test_logprobs_of_the_answer(vllm: VLLM, fake: FakeVLLM) -> None:
    token = {"token": "a", "logprob": -0.5, "bytes": [97]}
    logprobs = {"content": [{**token, "top_logprobs": [token]}]}
    fake.answers.append(
        [
            event(delta={"reasoning": "m"}, logprobs=logprobs),
            event("a", logprobs=logprobs),
            event("", "stop"),
            final(),
            DONE,
        ]
    )
    thought, said, _ = await ask(vllm, replace(QUESTION, sampling=Sampling(logprobs=1)))
    assert thought.logprobs == ()
    assert said.logprobs == (TokenLogprob("a", (97,), -0.5, (TokenLogprob("a", (97,), -0.5),)),)
    assert (fake.asked[0]["logprobs"], fake.asked[0]["top_logprobs"]) == (True, 1)


async def test_until_the_engine_has_counted_images_what_they_should_cost_is_told(vllm: VLLM, fake: FakeVLLM) -> None:
    image = Image("data:,", ImageContent(b"", "PNG", 64, 64, (64, 64), 6))
    fake.answers.append([event("a"), event("", "stop"), final(image=4), DONE])
    chunks = await ask(vllm, replace(QUESTION, messages=(Message("user", (image,)),)))
    assert [chunk.usage.image_tokens for chunk in chunks] == [6, 6]


@pytest.mark.parametrize(("counted", "told"), [(80, 66), (50, 50)])
async def test_videos_cost_what_was_computed_unless_the_engine_shrank_them(
    vllm: VLLM, fake: FakeVLLM, counted: int, told: int
) -> None:
    video = Video("x", VideoContent((ImageContent(b"a", "JPEG", 64, 64),) * 2, 2.0, 1.0, tokens=66))
    details = b'"prompt_tokens_details": {"multimodal_tokens": {"video": %d}}' % counted
    last = final().replace(b'"prompt_tokens_details": null', details)
    fake.answers.append([event("a"), event("", "stop"), last, DONE])
    chunks = await ask(vllm, replace(QUESTION, messages=(Message("user", (video,)),)))
    assert [chunk.usage.video_tokens for chunk in chunks] == [None, told]


@pytest.mark.parametrize("in_stream", [False, True])
async def test_an_engine_without_a_reasoning_parser_is_asked_without_a_budget(
    vllm: VLLM, fake: FakeVLLM, in_stream: bool
) -> None:
    """vLLM finds some mistakes before it answers, others when it has begun to."""
    answer = [event("a", "stop"), final(), DONE]
    refused = refusal("thinking_token_budget is set but reasoning_config is not configured.")
    fake.answers += [[data(refused), DONE] if in_stream else (400, refused), answer, list(answer)]
    for _ in range(2):
        await ask(vllm, replace(QUESTION, thinking=Thinking(True, 9)))
    assert [asked.get("thinking_token_budget") for asked in fake.asked] == [9, None, None]


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
        (400, '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set', InvalidRequest),
        (400, "Per-request media_io_kwargs are disabled by default because they can", InvalidRequest),
        (401, "Unauthorized", EngineUnavailable),
        (404, "The model does not exist.", EngineUnavailable),
        (500, "division by zero", GenerationFailed),
        (500, "EngineCore encountered an issue. See stack trace (above) for the root cause.", EngineUnavailable),
        (429, "Too many requests", Overloaded),
        (503, "", EngineUnavailable),
    ],
)
async def test_refusals(vllm: VLLM, fake: FakeVLLM, status: int, message: str, error: type[ServingError]) -> None:
    fake.answers.append((status, refusal(message)))
    with pytest.raises(ServingError) as raised:
        await ask(vllm)
    assert type(raised.value) is error


LONGEST = "maximum context length is 4096 tokens. However, your prompt contains"
LONGER = "is longer than the maximum model length of 4096."


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (CONTEXT, ", got 5000"),
        (f"This model's {LONGEST} at least 4097 input tokens, which exceeds", ", got at least 4097"),
        (f"This model's {LONGEST} 900000 characters (more than 30000 characters,", ", got 900000 characters"),
        (f"The decoder prompt (length 5000) {LONGER}", ", got 5000"),
        (f"The decoder prompt (length 4096) plus the number of requested output tokens (at least 1) {LONGER}", ""),
        ("max_tokens=32768 cannot be greater than max_model_len=4096.", ""),
    ],
)
async def test_the_context_and_the_prompt_are_named(vllm: VLLM, fake: FakeVLLM, said: str, told: str) -> None:
    fake.answers.append((400, refusal(said)))
    with pytest.raises(ContextTooLong) as raised:
        await ask(vllm)
    assert raised.value.message == f"Range of input length should be [1, 4096]{told}"


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
    await asyncio.wait_for(fake.left.wait(), 20)


async def test_who_has_the_whole_answer_does_not_hang_up(
    vllm: VLLM, fake: FakeVLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "END_WITHIN", 60)
    fake.gate = asyncio.Event()
    fake.answers.append([event("a", "stop"), final(), DONE, b": what follows is the end\n\n"])
    assert [chunk.text for chunk in await ask(vllm)] == ["a", ""]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(fake.left.wait(), 0.2)
    fake.gate.set()


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
        Broken(),
        ConnectionResetError(),
        socket.gaierror(),
        ssl.SSLError(),
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


def test_what_an_engine_says_of_a_failure_stays_out_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """It may quote the prompt; only the class of the exception is kept."""
    for text in (
        "ValueError: cannot answer 'the secret plan'",
        "the secret plan",
        "--tool-call-parser the secret plan",
    ):
        refusal_of(500, text)
    assert "secret" not in caplog.text
    assert ": ValueError" in caplog.text
    assert "--tool-call-parser" in caplog.text
