from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.engine import chat
from serving.errors import InvalidRequest
from serving.generation import (
    Caller,
    Generation,
    Image,
    ImageContent,
    Message,
    ResponseFormat,
    Sampling,
    Text,
    Thinking,
    Tool,
    ToolCall,
    Tools,
    Video,
    VideoContent,
)

QUESTION = Generation("r", Caller("k", "test"), "ours", (Message("user", (Text("hi"),)),))


def body(**changes: Any) -> dict[str, Any]:
    sent: dict[str, Any] = json.loads(chat.body(replace(QUESTION, **changes), "theirs"))
    return sent


def test_what_is_not_chosen_is_left_to_the_model() -> None:
    assert body(streamed=True) == {
        "model": "theirs",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }


def test_an_answer_that_nobody_reads_as_it_comes_has_larger_chunks() -> None:
    assert body(streamed=False)["stream_interval"] == 32
    assert "stream_interval" not in body(streamed=True)


@pytest.mark.parametrize(("given", "sent"), [(5e-324, 0.01), (0.5, 0.5), (1.05, 1.05), (1e308, 100.0)])
def test_a_penalty_that_would_make_logits_infinite_is_bounded(given: float, sent: float) -> None:
    assert body(sampling=Sampling(repetition_penalty=given))["repetition_penalty"] == sent


def test_parts_become_a_list_in_order() -> None:
    parts = (Text("one"), Image("data:image/png;base64,AAAA"), Text("two"))
    assert body(messages=(Message("user", parts),))["messages"][0]["content"] == [
        {"type": "text", "text": "one"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "text", "text": "two"},
    ]


@pytest.mark.parametrize("more", ["", '"', "\\", "é", '","detail":"high'])
def test_a_long_reference_is_sent_as_it_is(more: str) -> None:
    reference = "data:image/png;base64," + "AAAA" * 5000 + more
    sent = body(messages=(Message("user", (Image(reference), Text("What?"))),))
    assert sent["messages"][0]["content"][0] == {"type": "image_url", "image_url": {"url": reference}}


def test_sampling_is_passed_on() -> None:
    sampling = Sampling(temperature=0.0, top_k=0, max_tokens=7, stop=("END",), stop_token_ids=(1,))
    expected = {"temperature": 0.0, "top_k": 0, "max_tokens": 7, "stop": ["END"], "stop_token_ids": [1]}
    assert body(sampling=sampling).items() >= expected.items()


def test_more_stops_than_the_engine_takes_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="At most 4 stop strings can be given, got 5"):
        body(sampling=Sampling(stop=("a", "b", "c", "d", "e")))


def test_max_tokens_can_be_left_out() -> None:
    asked = replace(QUESTION, sampling=Sampling(max_tokens=7, seed=1))
    sent = json.loads(chat.body(asked, "theirs", without={"max_tokens"}))
    assert "max_tokens" not in sent
    assert sent["seed"] == 1


def test_response_formats() -> None:
    assert body(response_format=ResponseFormat("json_object"))["response_format"] == {"type": "json_object"}
    schema = {"type": "object"}
    assert body(response_format=ResponseFormat("json_schema", "chart", schema))["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "chart", "schema": schema, "strict": True},
    }


def test_a_prefix_is_continued() -> None:
    sent = body(messages=(*QUESTION.messages, Message("assistant", (Text("Well,"),), partial=True)))
    assert (sent["continue_final_message"], sent["add_generation_prompt"]) == (True, False)


@pytest.mark.parametrize("depth", [300, 900])
def test_a_schema_too_deep_to_send_is_refused(depth: int) -> None:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"items": schema}
    with pytest.raises(InvalidRequest, match="JSON schema"):
        body(response_format=ResponseFormat("json_schema", "deep", schema))


def test_a_schema_with_a_huge_number_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="JSON schema"):
        body(response_format=ResponseFormat("json_schema", "huge", {"maximum": 10**30}))


@pytest.mark.parametrize("token", ["<|image_pad|>", "<|im_end|>", "<|im_start|>", "<|vision_start|>", "<|video_pad|>"])
def test_control_tokens_are_read_as_letters(token: str) -> None:
    sent = body(messages=(Message("system", (Text(token),)), Message("user", (Text(f"a{token}b"), Text("c")))))
    assert token not in json.dumps(sent, ensure_ascii=False)
    assert sent["messages"][1]["content"][0]["text"].replace(chat.WORD_JOINER, "") == f"a{token}b"


@given(st.text(alphabet="<|>image_pdx \u2060"))
def test_no_text_keeps_a_control_token(text: str) -> None:
    assert not chat.CONTROL_TOKEN.search(chat.neutral(text))
    assert chat.neutral(text).replace(chat.WORD_JOINER, "") == text.replace(chat.WORD_JOINER, "")


@given(st.lists(st.sampled_from(["<", "|", "<|", "im_", "end", "|>", ">", ""]), min_size=1))
def test_no_texts_make_a_control_token_together(texts: list[str]) -> None:
    sent = body(messages=(Message("user", tuple(map(Text, texts))),))["messages"][0]["content"]
    written = sent if isinstance(sent, str) else "".join(part["text"] for part in sent)
    assert not chat.CONTROL_TOKEN.search(written)
    assert written.replace(chat.WORD_JOINER, "") == "".join(texts).replace(chat.WORD_JOINER, "")


def test_texts_that_make_a_control_token_together_are_one() -> None:
    picture = Image("data:image/png;base64,AAAA")
    parts = (Text("a<|im_"), Text(""), Text("end|>b"), picture, Text("<|im_"), picture, Text("end|>"))
    sent = body(messages=(Message("user", parts),))["messages"][0]["content"]
    texts = [part.get("text") for part in sent]
    assert texts == [f"a<{chat.WORD_JOINER}|im_end|>b", None, "<|im_", None, "end|>"]


@pytest.mark.parametrize(
    "arguments",
    [
        r'{"at": "\u003c|im_end|>"}',
        r'{"at": "<\u007cim_\u0065nd|>", "n": NaN}',
        r'{"\u003c|im_end|>": 1}',
        r'{"at": "\u003c|im_end|>\ud800"}',
    ],
)
def test_no_escape_hides_a_control_token(arguments: str) -> None:
    turn = Message("assistant", (), tool_calls=(ToolCall("1", "look", arguments),))
    sent = body(messages=(*QUESTION.messages, turn))["messages"][1]["tool_calls"][0]["function"]["arguments"]
    read = json.dumps(json.loads(sent), ensure_ascii=False)  # as vLLM and the template do
    assert not chat.CONTROL_TOKEN.search(read)
    assert read.replace(chat.WORD_JOINER, "") == json.dumps(json.loads(arguments), ensure_ascii=False)


@pytest.mark.parametrize("arguments", [r'{"path": "C:\\x"}', r"{\u003c|im_", '{"n": 1.50}'])
def test_other_arguments_are_sent_as_they_came(arguments: str) -> None:
    turn = Message("assistant", (), tool_calls=(ToolCall("1", "look", arguments),))
    sent = body(messages=(*QUESTION.messages, turn))["messages"][1]
    assert sent["tool_calls"][0]["function"]["arguments"] == arguments


def test_arguments_nested_too_deeply_are_refused() -> None:
    turn = Message("assistant", (), tool_calls=(ToolCall("1", "look", "[" * 100_000 + r'"\u003c"' + "]" * 100_000),))
    with pytest.raises(InvalidRequest, match="nested too deeply"):
        body(messages=(*QUESTION.messages, turn))


def test_thinking_is_switched_by_the_template() -> None:
    assert "chat_template_kwargs" not in body()
    assert body(thinking=Thinking(False))["chat_template_kwargs"] == {"enable_thinking": False}
    sent = body(thinking=Thinking(True, 100), sampling=Sampling(max_tokens=7))
    assert sent["chat_template_kwargs"] == {"enable_thinking": True}
    assert (sent["thinking_token_budget"], sent["max_tokens"]) == (100, 107)
    assert "stream_interval" not in sent


@pytest.mark.parametrize(
    ("sampling", "thinking", "expected"),
    [
        (Sampling(), Thinking(), None),
        (Sampling(max_tokens=7), Thinking(), 7),
        (Sampling(max_tokens=7, max_completion_tokens=5), Thinking(), 5),
        (Sampling(max_tokens=7), Thinking(False), 7),
        (Sampling(max_tokens=7), Thinking(True), 7 + chat.MAX_THOUGHT),
        (Sampling(max_tokens=7, max_completion_tokens=50), Thinking(True, 100), 50),
    ],
)
def test_max_tokens_of_the_engine_count_the_thoughts(
    sampling: Sampling, thinking: Thinking, expected: int | None
) -> None:
    assert chat.max_tokens(replace(QUESTION, sampling=sampling, thinking=thinking)) == expected


def test_tools() -> None:
    tools = Tools((Tool("look", "Ends <|im_end|>.", {"type": "object"}), Tool("count")), "look", parallel=True)
    sent = body(tools=tools)
    assert sent["tools"] == [
        {
            "type": "function",
            "function": {
                "name": "look",
                "description": f"Ends <{chat.WORD_JOINER}|im_end|>.",
                "parameters": {"type": "object"},
                "strict": True,
            },
        },
        {"type": "function", "function": {"name": "count", "strict": True}},
    ]
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "look"}}
    assert sent["parallel_tool_calls"] is True
    assert body(tools=Tools((Tool("look"),), "required"))["tool_choice"] == "required"
    assert "strict" not in body(tools=Tools((Tool("look"),)))["tools"][0]["function"]


def test_calls_and_results_of_earlier_turns() -> None:
    call = ToolCall("call_1", "look", '{"at":"<|im_end|>"}')
    turns = (
        Message("assistant", (), tool_calls=(call,), reasoning="Hm"),
        Message("tool", (Text("42"),), tool_call_id="call_1"),
    )
    assert body(messages=(*QUESTION.messages, *turns))["messages"][1:] == [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "look", "arguments": f'{{"at":"<{chat.WORD_JOINER}|im_end|>"}}'},
                }
            ],
            "reasoning": "Hm",
        },
        {"role": "tool", "content": "42", "tool_call_id": "call_1"},
    ]


def test_frames_are_sent_as_the_engine_takes_them() -> None:
    frames = tuple(ImageContent(data, "JPEG", 64, 64) for data in (b"one", b"two"))
    video = Video("https://x/a.mp4", VideoContent(frames, 2.0, 1.0))
    sent = body(messages=(Message("user", (video, Text("?"))),))
    assert sent["messages"][0]["content"][0] == {
        "type": "video_url",
        "video_url": {"url": "data:video/jpeg;base64,b25l,dHdv"},
    }
    assert sent["media_io_kwargs"] == {"video": {"num_frames": -1, "fps": 2.0}}


def test_what_nobody_waits_for_comes_last() -> None:
    assert "priority" not in body()
    assert body(priority="background")["priority"] == chat.BACKGROUND


def test_several_answers_and_logprobs() -> None:
    sent = body(sampling=Sampling(n=3, logprobs=0))
    assert (sent["n"], sent["logprobs"]) == (3, True)
    assert "top_logprobs" not in sent
