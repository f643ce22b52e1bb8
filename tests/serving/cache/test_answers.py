from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serving.cache import answers
from serving.generation import Answer, Chunk, TokenLogprob, ToolCallDelta, Usage

TEXTS = st.text(max_size=30)
LOGPROBS = st.builds(TokenLogprob, TEXTS, st.just((1, 2)), st.just(-0.5), st.just((TokenLogprob("a", (97,), -1.0),)))
CHUNKS = st.lists(
    st.builds(
        Chunk,
        text=TEXTS,
        usage=st.builds(Usage, st.integers(0, 9), st.integers(0, 9), st.none() | st.integers(0, 9)),
        finish_reason=st.sampled_from([None, None, "stop", "length"]),
        choice=st.integers(0, 2),
        reasoning=st.just("") | TEXTS,
        tool_calls=st.just(()) | st.tuples(st.builds(ToolCallDelta, st.integers(0, 1), TEXTS, TEXTS, TEXTS)),
        logprobs=st.just(()) | st.tuples(LOGPROBS),
    ),
    max_size=20,
)


def added(chunks: list[Chunk]) -> list[object]:
    answer = Answer()
    for chunk in chunks:
        answer.add(chunk)
    return [
        answer.usage,
        *((each.text, each.reasoning, each.tool_calls, each.logprobs, each.finish_reason) for each in answer.choices),
    ]


@given(CHUNKS)
def test_what_is_kept_adds_up_to_the_same_answer(chunks: list[Chunk]) -> None:
    kept = answers.decode(answers.encode(chunks))
    assert kept is not None
    assert added(kept) == added(chunks)


def test_tokens_are_kept_together_but_not_as_one() -> None:
    chunks = [Chunk("word ", Usage(9, number)) for number in range(200)]
    kept = answers.decode(answers.encode(chunks))
    assert kept is not None
    assert 5 < len(kept) < 20
    assert kept[-1].usage == Usage(9, 199)


def test_what_is_no_answer_is_none() -> None:
    assert answers.decode(b"\x00garbage") is None
    assert answers.decode(b"") is None
