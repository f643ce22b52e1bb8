from __future__ import annotations

import json
from collections.abc import AsyncIterator

from hypothesis import given
from hypothesis import strategies as st

from serving.compatible.rendering import DONE, Rendering, to_usage
from serving.generation import Answer, Chunk, FinishReason, TokenLogprob, ToolCallDelta, Usage
from tests.serving.compatible.wire import events, folded

RENDERING = Rendering("11111111-2222-3333-4444-555555555555", "ours", include_usage=True, created=7)

texts = st.text(max_size=4)
reasons: st.SearchStrategy[FinishReason] = st.sampled_from(["stop", "length", "tool_calls"])
logprobs = st.builds(
    lambda token, value: TokenLogprob(
        token, tuple(token.encode()), value, (TokenLogprob(token, tuple(token.encode()), value),)
    ),
    texts.filter(bool),
    st.floats(-20, 0),
)


@st.composite
def answers(draw: st.DrawFn) -> list[Chunk]:
    """The chunks of one to three answers, in any order among them."""
    left = [_chunks(choice, draw) for choice in range(draw(st.integers(1, 3)))]
    chunks: list[Chunk] = []
    while any(left):
        chunks.append(draw(st.sampled_from([each for each in left if each])).pop(0))
    return chunks


def _chunks(choice: int, draw: st.DrawFn) -> list[Chunk]:
    usage = Usage(10, draw(st.integers(0, 5)), 0)
    pieces = [
        Chunk(
            draw(texts),
            usage,
            choice=choice,
            reasoning=draw(texts),
            logprobs=tuple(draw(st.lists(logprobs, max_size=2))),
        )
        for _ in range(draw(st.integers(0, 4)))
    ]
    for index in range(draw(st.integers(0, 2))):
        pieces.append(
            Chunk("", usage, choice=choice, tool_calls=(ToolCallDelta(index, draw(texts), f"c{index}", "f"),))
        )
        pieces += [Chunk("", usage, choice=choice, tool_calls=(ToolCallDelta(index, draw(texts)),)) for _ in range(2)]
    return [*pieces, Chunk("", usage, draw(reasons), choice=choice)]


async def streamed(rendering: Rendering, chunks: list[Chunk]) -> bytes:
    async def source() -> AsyncIterator[Chunk]:
        for chunk in chunks:
            yield chunk

    return b"".join([frame async for frame in rendering.frames(source())])


@given(answers())
async def test_a_whole_answer_is_the_fold_of_the_streamed_one(chunks: list[Chunk]) -> None:
    answer = Answer()
    for chunk in chunks:
        answer.add(chunk)
    whole = json.loads(RENDERING.whole(answer))
    stream = events(await streamed(RENDERING, chunks))
    assert folded(stream) == {choice["index"]: choice for choice in whole["choices"]}
    assert stream[-1]["usage"] == whole["usage"]
    assert stream[-1]["choices"] == []
    assert {event["id"] for event in stream} == {whole["id"]}


async def test_a_piece_of_text_is_written_byte_for_byte_as_all_else_is() -> None:
    rendering = Rendering("r%b", "m", created=1)
    for text in ('100 % "\0" %b', "\0", "营收"):
        told = await streamed(rendering, [Chunk(text, Usage(), choice=1)])
        role = rendering._chunk(1, {"content": "", "role": "assistant"})
        assert told == role + rendering._chunk(1, {"content": text}) + DONE


async def test_usage_is_left_out_unless_asked_for() -> None:
    stream = events(await streamed(Rendering("r", "ours"), [Chunk("x", Usage(4, 1), "stop")]))
    assert [event["usage"] for event in stream] == [None, None, None]


async def test_reasoning_comes_before_the_answer() -> None:
    chunks = [Chunk("", Usage(4, 1), reasoning="Hm."), Chunk("Yes", Usage(4, 2)), Chunk("", Usage(4, 2), "stop")]
    stream = events(await streamed(Rendering("r", "ours"), chunks))
    assert [event["choices"][0]["delta"] for event in stream[1:]] == [
        {"content": None, "reasoning_content": "Hm."},
        {"content": "Yes"},
        {"content": ""},
    ]


def test_usage_itemises_what_the_engine_said() -> None:
    assert to_usage(Usage(100, 20, 60, 10, reasoning_tokens=5, cached_tokens=32)) == {
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "total_tokens": 120,
        "prompt_tokens_details": {"text_tokens": 30, "image_tokens": 60, "video_tokens": 10, "cached_tokens": 32},
        "completion_tokens_details": {"text_tokens": 15, "reasoning_tokens": 5},
    }


def test_usage_does_not_guess() -> None:
    assert to_usage(Usage(100, 20))["prompt_tokens_details"] == {}
