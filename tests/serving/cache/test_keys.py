from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from serving.cache.keys import SAME_ANSWER, key_of
from serving.generation import (
    Caller,
    Generation,
    Image,
    ImageContent,
    Message,
    Part,
    Pixels,
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

PICTURE = ImageContent(b"pixels", "PNG", 64, 48)
QUESTION = Generation(
    "r", Caller("k", "test"), "m", (Message("user", (Image("data:a", PICTURE), Text("hi"))),), Sampling(temperature=0)
)


def key(generation: Generation, *, shared: bool = False, revision: str = "") -> bytes | None:
    return key_of(generation, shared=shared, revision=revision)


def about(*parts: Part, **changes: Any) -> Generation:
    return replace(QUESTION, messages=(Message("user", parts, **changes),))


def sampled(name: str) -> dict[str, Any]:
    """Another value for one field of the sampling."""
    return {name: {"stop": ("x",), "stop_token_ids": (7,)}.get(name, 7)}


DIFFERENT = [
    replace(QUESTION, model="other"),
    replace(QUESTION, caller=Caller("another", "test")),
    replace(QUESTION, response_format=ResponseFormat("json_object")),
    replace(QUESTION, response_format=ResponseFormat("json_schema", schema={"a": 1})),
    replace(QUESTION, tools=Tools((Tool("f"),))),
    replace(QUESTION, thinking=Thinking(True)),
    about(Text("hi"), Image("data:a", PICTURE)),
    about(Image("data:a", replace(PICTURE, data=b"other")), Text("hi")),
    about(Image("data:a", replace(PICTURE, seen=(64, 64))), Text("hi")),
    about(Image("data:a", PICTURE, Pixels(most=1)), Text("hi")),
    about(Text("hi")),
    about(Text('["media","Image"]')),
    about(Video("data:a", VideoContent((PICTURE, PICTURE), 2.0, 1.0)), Text("hi")),
    about(Video("data:a", VideoContent((PICTURE, PICTURE), 1.0, 1.0)), Text("hi")),
    about(Image("data:a", PICTURE), Text("hi"), tool_calls=(ToolCall("1", "f", "{}"),)),
    about(Image("data:a", PICTURE), Text("hi"), reasoning="hm"),
    about(Image("data:a", PICTURE), Text("hi"), partial=True),
    *(replace(QUESTION, sampling=replace(QUESTION.sampling, **sampled(field.name))) for field in fields(Sampling)),
]


def test_what_changes_the_answer_changes_the_key() -> None:
    keys = [key(question) for question in (QUESTION, *DIFFERENT)]
    assert None not in keys
    assert len(set(keys)) == len(keys)


def test_what_does_not_change_the_answer_does_not_change_the_key() -> None:
    image = Image("https://elsewhere/a.png", ImageContent(b"pixels", "PNG", 64, 48))
    same = replace(about(image, Text("hi")), request_id="s", streamed=True, priority="background", caching="refresh")
    assert key(same) == key(QUESTION)


def test_every_field_has_been_thought_of() -> None:
    """A new field of a generation changes the key unless it is named here and in `SAME_ANSWER`."""
    names = {field.name for field in fields(Generation)}
    by_value = names - SAME_ANSWER
    assert by_value >= {"model", "sampling", "response_format", "tools", "thinking"}
    assert names >= SAME_ANSWER


def test_the_revision_sets_answers_apart_and_sharing_joins_callers() -> None:
    assert key(QUESTION, revision="2") != key(QUESTION)
    other = replace(QUESTION, caller=Caller("another", "test"))
    assert key(other, shared=True) == key(QUESTION, shared=True) != key(QUESTION)


@pytest.mark.parametrize("part", [Image("data:a"), Video("data:a")])
def test_unresolved_media_have_no_key(part: Part) -> None:
    assert key(about(part)) is None


def test_a_number_that_json_does_not_have_is_no_key() -> None:
    assert key(replace(QUESTION, response_format=ResponseFormat("json_schema", schema={"a": 2**80}))) is None
