from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.dashscope import messages, parts, schema, translate
from serving.dashscope.messages import Form
from serving.dashscope.translate import Rules, Translated
from serving.errors import EmptyInput, EmptyModel, InvalidRequest, ModelNotFound, ServingError
from serving.generation import Caller, Image, Message, Pixels, Text, Timeline, ToolCall, Video
from serving.reasoning import Mode, Reasoning
from tests.serving.dashscope.test_schema import json_values
from tests.serving.wire import chat, user

RULES = Rules(("qwen3-vl-30b", "ours"), 32768)
THINKING = replace(RULES, thinks="always")
FUNCTION = {"type": "function", "function": {"name": "look"}}
CALLS = [{"id": "c", "function": {"name": "look", "arguments": "{}"}}]
CALLING = {"role": "assistant", "content": [], "tool_calls": CALLS}


def to_generation(
    body: dict[str, Any], form: Form = "multimodal", rules: Rules = RULES, *, stream: bool = False
) -> Translated:
    wire = schema.parse(json.dumps(body).encode())
    caller = Caller("k", "test")
    return translate.to_generation(wire, form, rules, request_id="r", caller=caller, timeline=Timeline(), stream=stream)


def test_parts_keep_their_order() -> None:
    body = chat({"role": "system", "content": "Be brief."}, user("one", {"image": "data:x"}, "two"))
    assert to_generation(body).generation.messages == (
        Message("system", (Text("Be brief."),)),
        Message("user", (Text("one"), Image("data:x"), Text("two"))),
    )


def test_a_prefix_is_continued() -> None:
    body = chat(user("hi"), {"role": "assistant", "content": "Well,", "partial": True})
    assert to_generation(body).generation.messages[-1] == Message("assistant", (Text("Well,"),), partial=True)


def test_null_siblings_and_options_in_a_part_are_ignored() -> None:
    part = {"type": "image", "image": "data:x", "text": None, "min_pixels": 1, "cache_control": {"type": "ephemeral"}}
    assert to_generation(chat(user(part))).generation.images == (Image("data:x", pixels=Pixels(least=1)),)


def test_pixels_of_images() -> None:
    part = {"image": "data:x", "min_pixels": 70_000, "max_pixels": 10**300, "enable_rotate": True}
    clamped = Pixels(least=70_000, most=parts.MAX_SIZE)
    assert to_generation(chat(user(part))).generation.images == (Image("data:x", pixels=clamped),)
    largest = to_generation(chat(user({"image": "data:x"}), vl_high_resolution_images=True)).generation
    assert largest.images == (Image("data:x", pixels=Pixels(high_resolution=True)),)


def test_videos_by_url_and_by_frames() -> None:
    file = {"video": "https://x/a.mp4", "fps": 99, "max_frames": 64, "total_pixels": 1_000_000}
    frames = {"video": ["data:1", "data:2"], "fps": 0.5, "min_pixels": -1}
    assert to_generation(chat(user(file, frames, "What happens?"))).generation.videos == (
        Video("https://x/a.mp4", fps=10.0, max_frames=64, pixels=Pixels(total=1_000_000)),
        Video(("data:1", "data:2"), fps=0.5, pixels=Pixels(least=1)),
    )


def test_calls_and_their_results_are_history() -> None:
    results = ({"role": "tool", "content": "42", "tool_call_id": "c", "name": None}, {"role": "tool", "content": "43"})
    asked = to_generation(chat(user("hi"), CALLING, *results)).generation.messages
    assert asked[1:] == (
        Message("assistant", (), tool_calls=(ToolCall("c", "look", "{}"),)),
        Message("tool", (Text("42"),), tool_call_id="c"),
        Message("tool", (Text("43"),)),
    )
    bare = {"role": "assistant", "tool_calls": CALLS}
    assert to_generation(chat(user("hi"), bare)).generation.messages[1].parts == (Text(""),)


@pytest.mark.parametrize(("preserve", "kept"), [(True, "Hm."), (False, ""), (None, "")])
def test_earlier_thoughts_are_dropped_unless_preserved(preserve: bool | None, kept: str) -> None:
    thought = {"role": "assistant", "content": "Yes", "reasoning_content": "Hm."}
    body = chat(user("one"), thought, user("two"), preserve_thinking=preserve)
    assert to_generation(body).generation.messages[1].reasoning == kept


def test_the_legacy_prompt_with_history() -> None:
    body = {"model": "ours", "input": {"prompt": "three", "history": [{"user": "one", "bot": "two"}]}}
    roles = [(message.role, message.parts) for message in to_generation(body, "text").generation.messages]
    assert roles == [("user", (Text("one"),)), ("assistant", (Text("two"),)), ("user", (Text("three"),))]


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "[] is too short"),
        ([{"role": "user"}], "The content field is a required field."),
        ([{"role": "user", "content": ""}], messages.NO_CONTENT),
        ([{"role": "user", "content": []}], messages.NO_CONTENT),
        ([{"role": "robot", "content": "hi"}], messages.NO_CONTENT),
        ([{"content": "hi"}], messages.NO_CONTENT),
        ([{"role": "system", "content": "hi"}], "The input messages do not contain elements with the role of user."),
        ([user("hi"), {"role": "tool", "content": "42"}], messages.NO_CALL),
        ([user("hi"), CALLING, user("and?"), {"role": "tool", "content": "42"}], messages.NO_CALL),
        (
            [user("hi"), {"role": "assistant", "tool_calls": [{"id": "c"}]}],
            "An item of 'tool_calls' must have a 'function' with a 'name'.",
        ),
        ([user({"type": "image_url", "image_url": {"url": "x"}})], parts.NO_MODALITY),
        ([user({"image": "x", "text": "y"})], parts.NO_MODALITY),
        ([user({})], parts.NO_MODALITY),
        ([user({"text": 7})], "input content must be a string."),
        ([user({"audio": "x"})], "The audio modality is not supported by this server; send text, images and videos."),
        ([user({"image": ["x"]})], f"{parts.BAD_URL} The value of 'image' must be a string."),
        ([user({"video": 7})], f"{parts.BAD_URL} The value of 'video' must be a string."),
        ([user({"image": "x", "min_pixels": "many"})], "'min_pixels' must be Integer"),
        ([user({"video": "x", "fps": "fast"})], "'fps' must be Float"),
        ([user({"video": ["x"] * 10_000})], "Exceeded limit on messages and parts per request : 10000, got 10002"),
        (
            [{"role": "system", "content": [{"video": "x"}]}, user("hi")],
            'A video can only be part of a message with the role "user", not "system".',
        ),
        (
            [{"role": "assistant", "content": [{"image": "x"}]}, user("hi")],
            'An image can only be part of a message with the role "user", not "assistant".',
        ),
    ],
)
def test_refused_in_the_clouds_words(messages: list[Any], message: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        to_generation({"model": "ours", "input": {"messages": messages}})
    assert raised.value.message == message


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"input": {}}, EmptyModel),
        ({"model": "", "input": {}}, EmptyModel),
        ({"model": "qwen-max", "input": {}}, ModelNotFound),
        ({"model": "ours"}, EmptyInput),
        ({"model": "ours", "messages": [user("hi")], "input": {}}, InvalidRequest),
        ({"model": "ours", "input": {"prompt": "hi"}}, InvalidRequest),
    ],
)
def test_an_envelope_that_lacks_something(body: dict[str, Any], error: type[InvalidRequest]) -> None:
    with pytest.raises(InvalidRequest) as raised:
        to_generation(body)
    assert type(raised.value) is error


def test_json_mode_wants_the_word_json() -> None:
    wanted = {"type": "json_object"}
    assert to_generation(chat(user("As JSON, please"), response_format=wanted)).generation.response_format
    with pytest.raises(InvalidRequest, match="must contain the word 'json'"):
        to_generation(chat(user("As XML, please"), response_format=wanted))


@pytest.mark.parametrize(
    ("parameters", "form", "stream", "message"),
    [
        (
            {"incremental_output": False},
            "multimodal",
            True,
            'The incremental_output parameter must be "true" when enable_thinking is true',
        ),
        (
            {"result_format": "text"},
            "text",
            False,
            'The result_format parameter must be "message" when enable_thinking is true',
        ),
        (
            {"response_format": {"type": "json_object"}},
            "multimodal",
            False,
            "Json mode response is not supported when enable_thinking is true",
        ),
        (
            {"tools": [FUNCTION], "tool_choice": FUNCTION},
            "multimodal",
            False,
            "The tool_choice parameter does not support being set to required or object in thinking mode",
        ),
    ],
)
def test_what_thinking_excludes(parameters: dict[str, Any], form: Form, stream: bool, message: str) -> None:
    body = chat(user("As json, please"), **parameters)
    assert to_generation(body, form, stream=stream)
    with pytest.raises(InvalidRequest) as raised:
        to_generation(body, form, THINKING, stream=stream)
    assert raised.value.message == message


def test_what_thinking_does_not_exclude() -> None:
    assert to_generation(chat(incremental_output=False), rules=THINKING).generation.thinking.enabled
    assert to_generation(chat(result_format="text"), rules=THINKING).generation.thinking.enabled
    assert to_generation(chat(tools=[FUNCTION]), rules=THINKING).generation.thinking.enabled


@pytest.mark.parametrize("parameters", [{"tools": [FUNCTION]}, {"n": 2}])
def test_what_the_legacy_form_of_an_answer_has_no_place_for(parameters: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match='The result_format parameter must be "message" when'):
        to_generation(chat(result_format="text", **parameters), "text")


@pytest.mark.parametrize(
    ("setting", "served", "asked", "mode"),
    [
        (None, None, "qwen3-vl-30b", "never"),
        (None, None, "qwen3-vl-30b-a3b-thinking", "always"),
        (None, None, "qwen3-vl-plus-2025-12-19", "hybrid"),
        (None, None, "qwen3-vl-flash", "hybrid"),
        (None, "Qwen/Qwen3-VL-30B-A3B-Thinking", "qwen3-vl-30b-a3b-instruct", "always"),
        (None, "Qwen/Qwen3-VL-30B-A3B-Instruct", "qwen3-vl-plus", "never"),
        ("hybrid", "Qwen/Qwen3-VL-30B-A3B-Instruct", "ours", "hybrid"),
    ],
)
def test_whether_a_model_thinks(setting: Mode | None, served: str | None, asked: str, mode: Mode) -> None:
    assert Rules((), 1, setting, served, 7).reasoning(asked) == Reasoning(mode, 7)


contents = (
    st.none()
    | st.text()
    | st.lists(
        st.dictionaries(
            st.sampled_from(["text", "image", "video", "audio", "type", "fps", "min_pixels", "max_frames", "x"]),
            json_values,
            max_size=3,
        ),
        max_size=3,
    )
)
turns = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool", "robot", None])},
    optional={"content": contents, "partial": json_values, "tool_calls": json_values, "reasoning_content": json_values},
)


@given(st.lists(turns, max_size=4), st.sampled_from(["multimodal", "text"]))
def test_any_messages_are_read_or_refused(messages: list[Any], form: Form) -> None:
    with suppress(ServingError):
        to_generation({"model": "ours", "input": {"messages": messages}}, form)
