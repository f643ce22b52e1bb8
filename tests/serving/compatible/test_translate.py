from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.compatible import schema, translate
from serving.dashscope.translate import Rules
from serving.errors import InvalidRequest, MalformedBody
from serving.generation import Caller, Generation, Image, Message, Text, Thinking, Timeline, ToolCall, Tools, Video
from tests.serving.compatible.wire import chat, image, user

RULES = Rules(("qwen3-vl-30b",), 32768)
HYBRID = Rules(("qwen3-vl-30b",), 32768, thinks="hybrid")
OFF = {"parallel_tool_calls": False}


def to_generation(body: dict[str, Any], rules: Rules = RULES) -> Generation:
    wire = schema.parse(json.dumps(body).encode())
    return translate.to_generation(wire, rules, request_id="r", caller=Caller("k", "test"), timeline=Timeline())


def test_parts_keep_their_order_and_their_options() -> None:
    picture = image("data:x", min_pixels=70_000, max_pixels=80_000)
    picture["image_url"]["detail"] = "low"
    film = {"type": "video_url", "video_url": {"url": "https://x/y.mp4"}, "fps": 2}
    shots = {"type": "video", "video": ["data:1", "data:2", "data:3", "data:4"], "fps": 0.5}
    (message,) = to_generation(chat(user("one", picture, film, shots, "two"))).messages
    first, still, moving, listed, last = message.parts
    assert (first, last) == (Text("one"), Text("two"))
    assert isinstance(still, Image)
    assert (still.reference, still.pixels.least, still.pixels.most) == ("data:x", 70_000, 80_000)
    assert isinstance(moving, Video)
    assert (moving.reference, moving.fps) == ("https://x/y.mp4", 2)
    assert isinstance(listed, Video)
    assert (listed.reference, listed.fps) == (("data:1", "data:2", "data:3", "data:4"), 0.5)


def test_max_frames_is_no_option_here() -> None:
    (message,) = to_generation(
        chat(user({"type": "video_url", "video_url": {"url": "https://x/y.mp4"}, "max_frames": 9}))
    ).messages
    assert [part.max_frames for part in message.parts if isinstance(part, Video)] == [None]


def test_a_turn_of_tools() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    generation = to_generation(
        chat(
            user("look"),
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "seen", "tool_call_id": "c1"},
            tools=[tool],
        )
    )
    _, asked, told = generation.messages
    assert asked.tool_calls == (ToolCall("c1", "look", "{}"),)
    assert (told.role, told.tool_call_id) == ("tool", "c1")
    assert isinstance(generation.tools, Tools)
    assert [each.name for each in generation.tools.offered] == ["look"]


@pytest.mark.parametrize(("given", "parallel"), [({}, True), ({"parallel_tool_calls": None}, True), (OFF, False)])
def test_calls_come_together_unless_that_is_switched_off(given: dict[str, Any], parallel: bool) -> None:
    """Of this protocol alone: natively they come one at a time unless it is switched on."""
    tools = to_generation(chat(tools=[{"type": "function", "function": {"name": "look"}}], **given)).tools
    assert tools is not None
    assert tools.parallel is parallel


def test_developers_speak_for_the_system() -> None:
    generation = to_generation(chat({"role": "developer", "content": "Be brief."}, user("hi")))
    assert generation.messages[0] == Message("system", (Text("Be brief."),))


def test_a_prefix_is_continued() -> None:
    generation = to_generation(chat(user("hi"), {"role": "assistant", "content": "Well,", "partial": True}))
    assert generation.messages[-1] == Message("assistant", (Text("Well,"),), partial=True)


@pytest.mark.parametrize(
    ("parameters", "enabled"),
    [
        ({}, None),
        ({"enable_thinking": True}, True),
        ({"reasoning_effort": "none"}, False),
        ({"thinking": {"type": "disabled"}}, False),
        ({"thinking": {"type": "disabled"}, "enable_thinking": True}, True),
    ],
)
def test_thinking_is_switched(parameters: dict[str, Any], enabled: bool | None) -> None:
    silent = to_generation(chat(), HYBRID).thinking.enabled
    assert to_generation(chat(**parameters), HYBRID).thinking.enabled is (silent if enabled is None else enabled)


@pytest.mark.parametrize("effort", ["low", "high", 7, None])
def test_other_efforts_are_ignored(effort: object) -> None:
    assert isinstance(to_generation(chat(reasoning_effort=effort, thinking="yes")).thinking, Thinking)


def test_parameters_are_read() -> None:
    sampling = to_generation(
        chat(temperature=0.5, top_p=0.9, top_k=7, seed=3, stop="\n", max_tokens=9, presence_penalty=1, n=2)
    ).sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.seed) == (0.5, 0.9, 7, 3)
    assert (sampling.stop, sampling.max_tokens, sampling.presence_penalty, sampling.n) == (("\n",), 9, 1.0, 2)


def test_what_the_cloud_ignores_is_ignored() -> None:
    ignored: dict[str, Any] = {
        "frequency_penalty": "x",
        "logit_bias": [1],
        "metadata": 7,
        "prediction": 7,
        "prompt_cache_key": 7,
        "service_tier": 7,
        "store": 7,
        "user": 7,
        "verbosity": 7,
        "functions": {"deep": [[]]},
    }
    assert to_generation(chat(**ignored)) == to_generation(chat())


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (chat(seed=-1), "-1 is lesser than the minimum of 0 - 'seed'"),
        (chat(seed=2**31), "2147483648 is greater than the maximum of 2147483647 - 'seed'"),
        (chat(temperature=2), "Temperature should be in [0.0, 2.0)"),
        (chat(top_p=0), "Range of top_p should be (0.0, 1.0]"),
        (chat(n=5), "Range of n should be [1, 4]"),
        (chat(max_tokens=0), "Range of max_tokens should be [1, 32768]"),
        (chat(response_format={"type": "json_object"}), "must contain the word 'json'"),
        (chat({"role": "system", "content": "hi"}), "do not contain elements with the role of user"),
        (chat(user("a"), {"role": "tool", "content": "hi", "tool_call_id": "x"}), "tool"),
        ({"model": "qwen3-vl-30b"}, translate.NO_MESSAGES),
        ({"model": "qwen3-vl-30b", "messages": []}, "[] is too short"),
        (chat(user({"type": "picture"})), "Unexpected item type in content: 'picture'"),
    ],
)
def test_what_cannot_be_asked(body: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        to_generation(body)
    assert message in refusal.value.message


@pytest.mark.parametrize(
    ("parameters", "stream", "usage"),
    [
        ({}, False, False),
        ({"stream": True}, True, False),
        ({"stream": None, "stream_options": None}, False, False),
        ({"stream": True, "stream_options": {"include_usage": True}}, True, True),
        ({"stream": True, "stream_options": {"include_usage": False, "include_obfuscation": 1}}, True, False),
    ],
)
def test_how_to_answer(parameters: dict[str, Any], stream: bool, usage: bool) -> None:
    wire = schema.parse(json.dumps(chat(**parameters)).encode())
    assert (translate.wants_stream(wire), translate.wants_usage(wire)) == (stream, usage)


@pytest.mark.parametrize(
    "parameters", [{"stream": 1}, {"stream_options": []}, {"stream_options": {"include_usage": 1}}]
)
def test_how_nobody_can_answer(parameters: dict[str, Any]) -> None:
    wire = schema.parse(json.dumps(chat(**parameters)).encode())
    with pytest.raises(InvalidRequest):
        assert translate.wants_stream(wire) == translate.wants_usage(wire)


def test_parameters_are_bounded() -> None:
    with pytest.raises(MalformedBody):
        schema.parse(json.dumps(chat(stop=["x" * 1000] * 2000)).encode())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
kinds = st.sampled_from(["text", "image_url", "video_url", "video", "input_audio", "other"])
parts = st.dictionaries(
    kinds | st.sampled_from(["type", "fps", "min_pixels", "max_pixels"]), json_values | kinds, max_size=4
)
messages = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "developer", "user", "assistant", "tool", "x"]) | json_values},
    optional={
        "content": st.text(max_size=6) | st.lists(parts, max_size=3) | json_values,
        "tool_calls": json_values,
        "tool_call_id": json_values,
        "partial": json_values,
        "reasoning_content": json_values,
    },
)
bodies = st.fixed_dictionaries(
    {"model": st.just("qwen3-vl-30b"), "messages": st.lists(messages, max_size=3) | json_values},
    optional=dict.fromkeys(schema.PARAMETERS, json_values),
)


@settings(max_examples=40)
@given(bodies)
def test_any_body_is_read_or_refused(body: dict[str, Any]) -> None:
    with suppress(InvalidRequest):
        wire = schema.parse(json.dumps(body).encode())
        translate.wants_stream(wire)
        translate.wants_usage(wire)
        translate.to_generation(wire, RULES, request_id="r", caller=Caller("k", "test"), timeline=Timeline())
