"""Answers byte for byte, and the same answer whole, in increments and in cumulative frames."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import sse
from serving.dashscope.messages import Form
from serving.dashscope.rendering import Rendering, to_usage
from serving.generation import Answer, Chunk, FinishReason, Timeline, TokenLogprob, Usage
from tests.fakes import called, said, thought
from tests.serving.wire import Frame, frames

MULTIMODAL = Rendering("r", "multimodal")
TEXT = Rendering("r", "text")
SEEN = Timeline(seen=((640, 480), None, (32, 64)))
"""Widths and heights; that of the second image is not known."""


def ended(pieces: Sequence[Chunk], reason: FinishReason = "stop") -> list[Chunk]:
    """The pieces, one output token each, then the end of each answer that they belong to."""
    last = Usage(9, len(pieces), 0)
    numbered = [msgspec.structs.replace(piece, usage=Usage(9, number, 0)) for number, piece in enumerate(pieces, 1)]
    return [*numbered, *(Chunk("", last, reason, choice) for choice in sorted({each.choice for each in pieces} or {0}))]


async def replay(chunks: Sequence[Chunk]) -> AsyncIterator[Chunk]:
    for chunk in chunks:
        yield chunk


async def stream(chunks: Sequence[Chunk], rendering: Rendering = MULTIMODAL) -> list[Frame]:
    return frames(b"".join([frame async for frame in rendering.frames(replay(chunks))]))


def whole(chunks: Sequence[Chunk], rendering: Rendering = MULTIMODAL) -> dict[str, Any]:
    answer = Answer()
    for chunk in chunks:
        answer.add(chunk)
    body: dict[str, Any] = json.loads(rendering.whole(answer))
    return body


def choice(frame: Frame) -> dict[str, Any]:
    (only,) = frame.data["output"]["choices"]
    assert isinstance(only, dict)
    return only


def messages(got: list[Frame]) -> list[str]:
    """Each frame's message as it is written, keys in order, and the reason beside it."""
    return [json.dumps(choice(frame)["message"]) + choice(frame)["finish_reason"] for frame in got]


ALL_GOOD = ended([said("All "), said("good.")])
PARTS = '{"choices":[{"finish_reason":"stop","message":{"role":"assistant","content":[{"text":"All good."}]}}]'
STRING = '{"choices":[{"finish_reason":"stop","message":{"role":"assistant","content":"All good."}}]'


@pytest.mark.parametrize(
    ("rendering", "output"),
    [
        (replace(MULTIMODAL, output_text=False), PARTS + "}"),
        (MULTIMODAL, PARTS + ',"text":"All good."}'),
        (TEXT, STRING + "}"),
        (replace(TEXT, text_result=True), '{"finish_reason":"stop","text":"All good."}'),
    ],
)
def test_a_whole_answer(rendering: Rendering, output: str) -> None:
    answer = Answer()
    for chunk in ALL_GOOD:
        answer.add(chunk)
    body = rendering.whole(answer).decode()
    assert body.startswith(f'{{"output":{output},"usage":{{')
    assert body.endswith('},"request_id":"r"}')


async def test_increments_then_an_empty_frame_with_the_reason() -> None:
    got = await stream(ended([said("a"), said("b")], "length"))
    assert messages(got) == [
        '{"content": [{"text": "a"}], "role": "assistant"}null',
        '{"content": [{"text": "b"}], "role": "assistant"}null',
        '{"content": [], "role": "assistant"}length',
    ]
    assert [frame.id for frame in got] == [1, 2, 3]
    assert {frame.event for frame in got} == {"result"}


async def test_a_piece_of_text_is_written_byte_for_byte_as_all_else_is() -> None:
    """Frames of a text alone are filled in, what is around them is written once for all of a stream."""
    pieces = [said('100 % "\0" %b'), said("\0", choice=1), thought("t"), said("营收")]
    rendering = Rendering("r%b", "multimodal", indexed=True)
    got = [frame async for frame in rendering.frames(replay(pieces))]
    for number, (piece, frame) in enumerate(zip(pieces, got, strict=True), 1):
        body = {"output": rendering._frame(piece), "usage": to_usage(piece.usage), "request_id": "r%b"}
        assert frame == sse.frame(number, "result", 200, orjson.dumps(body))


async def test_cumulative_frames_repeat_what_came_before() -> None:
    got = await stream(ended([said("a"), said("b")]), replace(TEXT, incremental=False))
    assert [choice(frame)["message"]["content"] for frame in got] == ["a", "ab", "ab"]


async def test_the_legacy_form_of_the_text_path() -> None:
    got = await stream(ended([said("1+"), said("1")]), replace(TEXT, text_result=True))
    assert [frame.data["output"] for frame in got] == [
        {"finish_reason": "null", "text": "1+"},
        {"finish_reason": "null", "text": "1"},
        {"finish_reason": "stop", "text": ""},
    ]


THOUGHT = ended([thought("Hm"), said("Yes")])


async def test_thoughts_come_before_the_answer() -> None:
    assert messages(await stream(THOUGHT)) == [
        '{"content": [], "reasoning_content": "Hm", "role": "assistant"}null',
        '{"content": [{"text": "Yes"}], "role": "assistant"}null',
        '{"content": [], "role": "assistant"}stop',
    ]
    message = whole(THOUGHT)["output"]["choices"][0]["message"]
    assert message == {"role": "assistant", "content": [{"text": "Yes"}], "reasoning_content": "Hm"}


async def test_the_text_path_always_says_what_a_thinking_model_thought() -> None:
    assert messages(await stream(THOUGHT, replace(TEXT, thinking=True))) == [
        '{"content": "", "reasoning_content": "Hm", "role": "assistant"}null',
        '{"content": "Yes", "reasoning_content": "", "role": "assistant"}null',
        '{"content": "", "reasoning_content": "", "role": "assistant"}stop',
    ]


CALLS = ended(
    [
        called("", call_id="call_1", name="look"),
        called('{"page":'),
        called("1}"),
        called("", index=1, call_id="call_2", name="count"),
        called("{}", index=1),
    ],
    "tool_calls",
)


async def test_the_last_piece_of_a_call_has_the_reason() -> None:
    got = await stream(CALLS)
    deltas = [choice(frame)["message"]["tool_calls"][0] for frame in got]
    assert deltas == [
        {"index": 0, "id": "call_1", "type": "function", "function": {"name": "look", "arguments": ""}},
        {"index": 0, "id": "", "type": "function", "function": {"arguments": '{"page":'}},
        {"index": 0, "id": "", "type": "function", "function": {"arguments": "1}"}},
        {"index": 1, "id": "call_2", "type": "function", "function": {"name": "count", "arguments": ""}},
        {"index": 1, "id": "", "type": "function", "function": {"arguments": "{}"}},
    ]
    assert [choice(frame)["finish_reason"] for frame in got] == ["null"] * 4 + ["tool_calls"]
    assert all(choice(frame)["message"]["content"] == [] for frame in got)
    assert got[-1].data["usage"]["output_tokens"] == 5


async def test_calls_in_a_whole_answer() -> None:
    calls = [
        {"index": 0, "id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"page":1}'}},
        {"index": 1, "id": "call_2", "type": "function", "function": {"name": "count", "arguments": "{}"}},
    ]
    message = whole(CALLS)["output"]["choices"][0]["message"]
    assert message == {"role": "assistant", "content": [], "tool_calls": calls}
    last = (await stream(CALLS, replace(MULTIMODAL, incremental=False)))[-1]
    assert choice(last)["message"]["tool_calls"] == calls
    text = whole(CALLS, replace(TEXT, indexed=True))["output"]["choices"][0]
    assert (text["message"]["content"], text["index"]) == ("", 0)


async def test_several_answers_are_numbered() -> None:
    two = ended([said("a"), said("b", choice=1)])
    rendering = replace(MULTIMODAL, indexed=True)
    got = await stream(two, rendering)
    assert [(choice(frame)["index"], choice(frame)["finish_reason"]) for frame in got] == [
        (0, "null"),
        (1, "null"),
        (0, "stop"),
        (1, "stop"),
    ]
    assert [each["index"] for each in whole(two, rendering)["output"]["choices"]] == [0, 1]


async def test_logprobs() -> None:
    top = (TokenLogprob("Hi", (72, 105), -0.1), TokenLogprob("Ho", (72, 111), -2.5))
    chunks = ended([said("Hi", logprob=-0.1, top=top)])
    token = {"token": "Hi", "bytes": [72, 105], "logprob": -0.1}
    written = {"content": [token | {"top_logprobs": [token, {"token": "Ho", "bytes": [72, 111], "logprob": -2.5}]}]}
    first, last = await stream(chunks)
    assert choice(first)["logprobs"] == written
    assert "logprobs" not in choice(last)
    assert whole(chunks)["output"]["choices"][0]["logprobs"] == written


async def test_the_sizes_of_images_come_last_and_after_a_text() -> None:
    rendering = replace(MULTIMODAL, sizes=SEEN)
    sizes = {"image_hw": [[480, 640], [64, 32]]}
    chunks = ended([said("a")])
    assert whole(chunks, rendering)["output"]["choices"][0]["message"]["content"] == [{"text": "a"}, sizes]
    contents = [choice(frame)["message"]["content"] for frame in await stream(chunks, rendering)]
    assert contents == [[{"text": "a"}], [{"text": ""}, sizes]]


async def test_sizes_that_nobody_knows_are_left_out() -> None:
    content = whole(ended([said("a")]), replace(MULTIMODAL, sizes=Timeline()))["output"]["choices"][0]["message"]
    assert content["content"] == [{"text": "a"}]


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (
            Usage(30, 2, 12),
            {"input_tokens_details": {"text_tokens": 18, "image_tokens": 12}, "image_tokens": 12},
        ),
        (
            Usage(30, 2, 12, 8),
            {
                "input_tokens_details": {"text_tokens": 10, "image_tokens": 12, "video_tokens": 8},
                "image_tokens": 12,
                "video_tokens": 8,
            },
        ),
        (Usage(30, 2, 0), {"input_tokens_details": {"text_tokens": 30}}),
        (Usage(30, 2), {}),
        (Usage(30, 2, cached_tokens=16), {"prompt_tokens_details": {"cached_tokens": 16}}),
        (Usage(30, 2, reasoning_tokens=2), {"output_tokens_details": {"text_tokens": 0, "reasoning_tokens": 2}}),
    ],
)
def test_usage_itemises_what_is_known(usage: Usage, expected: dict[str, Any]) -> None:
    totals = {"input_tokens": 30, "output_tokens": 2, "total_tokens": 32, "output_tokens_details": {"text_tokens": 2}}
    assert to_usage(usage) == totals | expected


texts = st.text(min_size=1, max_size=4)
tokens = st.builds(said, texts, logprob=st.floats(-9, 0))


@st.composite
def chunked(draw: st.DrawFn, choice: int = 0) -> list[Chunk]:
    """An answer as a model gives it: thoughts, then text, then calls, each whole before the next begins."""
    pieces = [thought(each) for each in draw(st.lists(texts, max_size=2))]
    pieces += draw(st.lists(st.builds(said, texts) | tokens, max_size=3))
    for index in range(draw(st.integers(0, 2))):
        pieces.append(called("", index=index, call_id=f"call_{index}", name="look"))
        pieces += [called(each, index=index) for each in draw(st.lists(texts, max_size=2))]
    return [msgspec.structs.replace(piece, choice=choice) for piece in pieces]


@st.composite
def answers(draw: st.DrawFn) -> list[Chunk]:
    """Up to three of them, interleaved."""
    queues = [draw(chunked(choice)) for choice in range(draw(st.integers(1, 3)))]
    pieces: list[Chunk] = []
    while any(queues):
        queue = draw(st.sampled_from([each for each in queues if each]))
        pieces.append(queue.pop(0))
    numbered = [msgspec.structs.replace(piece, usage=Usage(9, number, 0)) for number, piece in enumerate(pieces, 1)]
    ends = [Chunk("", Usage(9, len(pieces), 0), "stop", choice) for choice in range(len(queues))]
    return [*numbered, *ends]


def folded(got: list[Frame], incremental: bool) -> list[dict[str, Any]]:
    """What a client adds the frames up to: the text, thoughts, calls, logprobs and reason of each answer."""
    read: dict[int, dict[str, Any]] = {}
    for frame in got:
        sent = choice(frame)
        fresh: dict[str, Any] = {"text": "", "thoughts": "", "calls": {}, "logprobs": []}
        state = read.setdefault(sent["index"], fresh) if incremental else read.setdefault(sent["index"], {}) | fresh
        message = sent["message"]
        content = message["content"]
        state["text"] += content if isinstance(content, str) else "".join(part["text"] for part in content)
        state["thoughts"] += message.get("reasoning_content", "")
        state["logprobs"] = state["logprobs"] + sent.get("logprobs", {"content": []})["content"]
        for call in message.get("tool_calls", []):
            known = state["calls"].setdefault(call["index"], {"id": "", "name": "", "arguments": ""})
            known["id"] += call["id"]
            known["name"] += call["function"].get("name", "")
            known["arguments"] += call["function"]["arguments"]
        state["reason"] = sent["finish_reason"]
        read[sent["index"]] = state
    return [read[number] for number in sorted(read)]


def as_one_frame(body: dict[str, Any]) -> list[Frame]:
    return [
        Frame(0, "result", 200, {"output": {"choices": [each]}, "usage": body["usage"]})
        for each in body["output"]["choices"]
    ]


@given(answers(), st.sampled_from(["multimodal", "text"]), st.booleans())
async def test_the_stream_adds_up_to_the_whole(chunks: list[Chunk], form: Form, incremental: bool) -> None:
    rendering = Rendering("r", form, incremental, indexed=True)
    got = await stream(chunks, rendering)
    body = whole(chunks, rendering)
    assert folded(got, incremental) == folded(as_one_frame(body), incremental=True)
    assert got[-1].data["usage"] == body["usage"]
    assert [frame.id for frame in got] == list(range(1, len(got) + 1))
    assert all({"input_tokens", "output_tokens", "total_tokens"} <= frame.data["usage"].keys() for frame in got)
    assert all(frame.data["request_id"] == "r" for frame in got)
    assert "null" not in [each["finish_reason"] for each in body["output"]["choices"]]


@given(answers(), st.sampled_from(["multimodal", "text"]))
async def test_nothing_in_an_answer_is_null(chunks: list[Chunk], form: Form) -> None:
    rendering = Rendering("r", form)

    def check(value: object) -> None:
        assert value is not None
        for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            check(inner)

    check(whole(chunks, rendering))
    for frame in await stream(chunks, rendering):
        check(frame.data)
