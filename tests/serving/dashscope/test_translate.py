from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.dashscope import schema, translate
from serving.dashscope.translate import Form, Rendering, Rules, Translated
from serving.errors import EmptyInput, EmptyModel, InvalidRequest, ModelNotFound
from serving.generation import Answer, Caller, Chunk, Image, Message, Text, Timeline, Usage
from tests.serving.wire import chat, frames, user

RULES = Rules(("qwen3-vl-30b", "ours"), 32768)


def to_generation(body: dict[str, Any], form: Form = "multimodal") -> Translated:
    wire = schema.parse(json.dumps(body).encode())
    return translate.to_generation(wire, form, RULES, request_id="r", caller=Caller("k", "test"), timeline=Timeline())


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
    assert to_generation(chat(user(part))).generation.images == (Image("data:x"),)


def test_the_legacy_prompt_with_history() -> None:
    body = {"model": "ours", "input": {"prompt": "three", "history": [{"user": "one", "bot": "two"}]}}
    roles = [(message.role, message.parts) for message in to_generation(body, "text").generation.messages]
    assert roles == [("user", (Text("one"),)), ("assistant", (Text("two"),)), ("user", (Text("three"),))]


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "[] is too short"),
        ([{"role": "user"}], "The content field is a required field."),
        ([{"role": "user", "content": ""}], translate.NO_CONTENT),
        ([{"role": "user", "content": []}], translate.NO_CONTENT),
        ([{"role": "robot", "content": "hi"}], translate.NO_CONTENT),
        ([{"content": "hi"}], translate.NO_CONTENT),
        ([{"role": "system", "content": "hi"}], "The input messages do not contain elements with the role of user."),
        ([{"role": "tool", "content": "42"}], "The tool call is not supported."),
        ([user({"type": "image_url", "image_url": {"url": "x"}})], translate.NO_MODALITY),
        ([user({"image": "x", "text": "y"})], translate.NO_MODALITY),
        ([user({})], translate.NO_MODALITY),
        ([user({"text": 7})], "input content must be a string."),
        ([user({"video": "x"})], "The video modality is not supported by this server; send text and images."),
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


ANSWER = Answer()
ANSWER.add(Chunk("All ", Usage(30, 1)))
ANSWER.add(Chunk("good.", Usage(30, 2, 12), "stop"))


PARTS = '{"choices":[{"finish_reason":"stop","message":{"role":"assistant","content":[{"text":"All good."}]}}]'
STRING = '{"choices":[{"finish_reason":"stop","message":{"role":"assistant","content":"All good."}}]'


@pytest.mark.parametrize(
    ("form", "output_text", "output"),
    [
        ("multimodal", False, PARTS + "}"),
        ("multimodal", True, PARTS + ',"text":"All good."}'),
        ("text", True, STRING + "}"),
    ],
)
def test_a_whole_answer(form: Form, output_text: bool, output: str) -> None:
    body = Rendering("r", form, incremental=True, output_text=output_text).whole(ANSWER).decode()
    assert body.startswith(f'{{"output":{output},"usage":{{')
    assert body.endswith('},"request_id":"r"}')


def test_usage_itemises_the_images() -> None:
    assert translate.to_usage(Usage(30, 2, 12)) == {
        "input_tokens": 30,
        "output_tokens": 2,
        "total_tokens": 32,
        "image_tokens": 12,
        "input_tokens_details": {"text_tokens": 18, "image_tokens": 12},
        "output_tokens_details": {"text_tokens": 2},
    }


def test_usage_without_images_has_no_image_tokens() -> None:
    assert translate.to_usage(Usage(5, 2, 0))["input_tokens_details"] == {"text_tokens": 5}


def test_usage_does_not_guess_what_the_engine_has_not_said() -> None:
    assert "input_tokens_details" not in translate.to_usage(Usage(30, 2))


async def replay(pieces: list[str]) -> AsyncIterator[Chunk]:
    for count, piece in enumerate(pieces, 1):
        yield Chunk(piece, Usage(9, count, 0))
    yield Chunk("", Usage(9, len(pieces), 0), "length")


async def stream(form: Form, pieces: list[str], incremental: bool = True) -> list[Any]:
    rendering = Rendering("r", form, incremental=incremental, output_text=True)
    body = b"".join([frame async for frame in rendering.frames(replay(pieces))])
    return frames(body)


async def test_increments_then_an_empty_frame_with_the_reason() -> None:
    got = await stream("multimodal", ["a", "b"])
    choices = [frame.data["output"]["choices"][0] for frame in got]
    assert [choice["finish_reason"] for choice in choices] == ["null", "null", "length"]
    assert [choice["message"]["content"] for choice in choices] == [[{"text": "a"}], [{"text": "b"}], []]
    assert [frame.id for frame in got] == [1, 2, 3]
    assert {frame.event for frame in got} == {"result"}


async def test_cumulative_frames_repeat_the_text() -> None:
    got = await stream("text", ["a", "b"], incremental=False)
    assert [frame.data["output"]["choices"][0]["message"]["content"] for frame in got] == ["a", "ab", "ab"]


@given(st.lists(st.text(min_size=1), max_size=6))
async def test_the_stream_adds_up_to_the_whole(pieces: list[str]) -> None:
    got = await stream("multimodal", pieces)
    parts = [part for frame in got for part in frame.data["output"]["choices"][0]["message"]["content"]]
    answer = Answer()
    async for chunk in replay(pieces):
        answer.add(chunk)
    whole = json.loads(Rendering("r", "multimodal", incremental=True, output_text=True).whole(answer))
    assert "".join(part["text"] for part in parts) == whole["output"]["text"]
    assert got[-1].data["usage"] == whole["usage"]
    assert all({"input_tokens", "output_tokens", "total_tokens"} <= frame.data["usage"].keys() for frame in got)
    assert all(frame.data["request_id"] == "r" for frame in got)
