from __future__ import annotations

from serving.generation import Answer, Caller, Chunk, Generation, Message, Sampling, Text, ToolCall, Usage
from tests.fakes import FakeEngine, called, said, thought

QUESTION = Generation("r", Caller("k", "test"), "ours", (Message("user", (Text("hi"),)),))
TWO = Generation("r", Caller("k", "test"), "ours", QUESTION.messages, Sampling(n=2))


async def answered(engine: FakeEngine, question: Generation = QUESTION) -> Answer:
    answer = Answer()
    async for chunk in engine.generate(question):
        answer.add(chunk)
    return answer


async def test_reasoning_text_and_calls_add_up_apart() -> None:
    engine = FakeEngine()
    engine.enqueue(
        thought("Let "),
        thought("me see."),
        said("Two calls:", logprob=-0.5),
        called("", call_id="call_1", name="look"),
        called('{"page":'),
        called("1}"),
        called("{}", index=1, call_id="call_2", name="count"),
    )
    answer = await answered(engine)
    (choice,) = answer.choices
    assert (choice.reasoning, choice.text, choice.finish_reason) == ("Let me see.", "Two calls:", "tool_calls")
    assert choice.tool_calls == (ToolCall("call_1", "look", '{"page":1}'), ToolCall("call_2", "count", "{}"))
    assert [token.logprob for token in choice.logprobs] == [-0.5]
    assert (answer.usage.output_tokens, answer.usage.reasoning_tokens) == (7, 2)


async def test_answers_add_up_by_their_number_in_any_order() -> None:
    engine = FakeEngine()
    engine.enqueue(said("b", choice=1), said("a", choice=0), said("B", choice=1))
    answer = await answered(engine, TWO)
    assert [(choice.text, choice.finish_reason) for choice in answer.choices] == [("a", "stop"), ("bB", "stop")]
    assert answer.text == "a"


def test_what_is_cut_ends_as_too_long() -> None:
    answer = Answer()
    answer.add(Chunk("done", Usage(1, 1), "stop"))
    answer.add(Chunk("half", Usage(1, 2), choice=1))
    answer.cut()
    assert [choice.finish_reason for choice in answer.choices] == ["stop", "length"]


def test_an_answer_begins_with_its_first_piece() -> None:
    answer = Answer()
    answer.add(Chunk("", Usage(1, 0)))
    assert not answer.begun
    answer.add(thought("Well"))
    assert answer.begun
