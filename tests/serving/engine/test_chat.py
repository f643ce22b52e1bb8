from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.engine import chat
from serving.errors import InvalidRequest
from serving.generation import Caller, Generation, Image, Message, ResponseFormat, Sampling, Text

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


def test_parts_become_a_list_in_order() -> None:
    parts = (Text("one"), Image("data:image/png;base64,AAAA"), Text("two"))
    assert body(messages=(Message("user", parts),))["messages"][0]["content"] == [
        {"type": "text", "text": "one"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "text", "text": "two"},
    ]


def test_sampling_is_passed_on() -> None:
    sampling = Sampling(temperature=0.0, top_k=0, max_tokens=7, stop=("END",), stop_token_ids=(1,))
    expected = {"temperature": 0.0, "top_k": 0, "max_tokens": 7, "stop": ["END"], "stop_token_ids": [1]}
    assert body(sampling=sampling).items() >= expected.items()


def test_more_stops_than_the_engine_takes_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="At most 4 stop strings can be given, got 5"):
        body(sampling=Sampling(stop=("a", "b", "c", "d", "e")))


def test_max_tokens_can_be_left_out() -> None:
    asked = replace(QUESTION, sampling=Sampling(max_tokens=7, seed=1))
    sent = json.loads(chat.body(asked, "theirs", limit_tokens=False))
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
