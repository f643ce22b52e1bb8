from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import lifting
from serving.compatible import schema as compatible
from serving.dashscope import schema
from serving.errors import MalformedBody

URI = "data:image/png;base64," + "AbC+/123" * 4000
OTHER = "data:image/jpeg;base64," + "xyz0" * 9000


def native(*parts: Any, **more: Any) -> dict[str, Any]:
    return {"model": "m", "input": {"messages": [{"role": "user", "content": list(parts)}]}, **more}


def read(body: bytes) -> list[Any]:
    wire = schema.parse(body).input
    assert wire is not None
    assert wire.messages is not None
    return [message.content for message in wire.messages]


@pytest.mark.parametrize("indent", [None, 2])
def test_images_come_back_to_their_places(indent: int | None) -> None:
    body = json.dumps(
        native({"image": URI}, {"text": "a"}, {"image": OTHER, "min_pixels": 4}, {"image": URI}), indent=indent
    )
    small, uris = lifting.lifted(body.encode())
    assert (len(small) < 1500, uris) == (True, [URI, OTHER, URI])
    assert read(body.encode()) == [[{"image": URI}, {"text": "a"}, {"image": OTHER, "min_pixels": 4}, {"image": URI}]]


def test_images_of_the_other_protocol() -> None:
    parts = [{"type": "image_url", "image_url": {"url": URI}}, {"type": "text", "text": "a"}]
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": parts}]}).encode()
    assert lifting.lifted(body)[1] == [URI]
    messages = compatible.parse(body).messages
    assert messages is not None
    assert messages[0].content == parts


@pytest.mark.parametrize(
    "text",
    [f'"image":"{URI}', f'see "image": "{URI}" there', f'\\"image":"{URI}', f"{URI}", f'{{"url":"{URI}"}}'],
)
def test_a_text_that_looks_like_an_image_stays_a_text(text: str) -> None:
    body = json.dumps(native({"text": text})).encode()
    assert lifting.lifted(body) == (body, [])
    assert read(body) == [[{"text": text}]]


def test_what_stands_elsewhere_is_read_too() -> None:
    default = {"image": URI}
    body = json.dumps(native({"image": OTHER}, parameters={"tools": [default]})).encode()
    assert len(lifting.lifted(body)[1]) == 2
    assert schema.parse(body).parameters == {"tools": [default]}
    assert read(body) == [[{"image": OTHER}]]


@pytest.mark.parametrize("sign", ["\n", "\t", "\r", "\udc80", "é"])
def test_what_is_no_base64_is_left_to_the_decoder(sign: str) -> None:
    raw = json.dumps(native({"image": URI})).replace("AbC+", f"AbC{sign}+", 1).encode("utf-8", "surrogateescape")
    assert lifting.lifted(raw)[1] == []
    if sign == "é":
        assert read(raw) == [[{"image": URI.replace("AbC+", "AbCé+", 1)}]]
    else:
        with pytest.raises(MalformedBody):
            schema.parse(raw)


def test_escapes_are_unescaped() -> None:
    body = json.dumps(native({"image": URI})).replace("/", "\\/").encode()
    assert read(body) == [[{"image": URI}]]


@pytest.mark.parametrize("cut", [1, 2, 5, 100, 20_000])
def test_mistakes_are_told_by_their_place_in_the_body(cut: int) -> None:
    body = json.dumps(native({"image": URI})).encode()[:-cut]
    with pytest.raises(MalformedBody) as refused:
        schema.parse(body)
    with pytest.raises(MalformedBody) as plain:
        schema.parse(body.replace(b'"image"', b'"imag3"'))
    assert str(refused.value) == str(plain.value)


def test_a_mark_cannot_be_guessed() -> None:
    body = json.dumps(native({"image": "lifted:0"}, {"image": URI})).encode()
    assert read(body) == [[{"image": "lifted:0"}, {"image": URI}]]


def seconds(work: Callable[[], Any]) -> float:
    began = time.thread_time()
    work()
    return time.thread_time() - began


def test_mentions_in_a_long_text_cost_no_look_at_all_of_it_each() -> None:
    body = json.dumps(native({"text": ";base64," * lifting.FEW + "A" * (8 << 20)})).encode()
    plain = min(seconds(lambda: json.loads(body)) for _ in range(3))
    assert min(seconds(lambda: lifting.lifted(body)) for _ in range(3)) < 2 * plain


JSON = st.recursive(
    st.one_of(st.text(), st.just(URI), st.just(f'"image":"{URI}"'), st.none()),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["image", "url", "image_url", "text", 'a"image']), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(JSON, st.sampled_from([None, 1]))
def test_marks_stand_for_whole_values_of_any_json(value: Any, indent: int | None) -> None:
    small, uris = lifting.lifted(json.dumps(value, indent=indent).encode())

    def filled(found: Any) -> Any:
        if isinstance(found, str) and found.startswith(lifting.MARK):
            return uris[int(found[len(lifting.MARK) :])]
        if isinstance(found, dict):
            return {name: filled(each) for name, each in found.items()}
        return [filled(each) for each in found] if isinstance(found, list) else found

    assert filled(json.loads(small)) == value
