from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.dashscope import schema
from serving.errors import MalformedBody

DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"{} x",
        b'{"model":1}',
        b'{"model":"\xff"}',
        b'{"model":"\\ud800"}',
        b'{"parameters":{"temperature":NaN}}',
        b'{"parameters":{"temperature":1e999}}',
        b'{"parameters":{"a":' + DEEP + b"}}",
        b'{"ignored":' + DEEP + b"}",
        b'{"input":{"messages":"hi"}}',
        b'{"input":{"messages":[{"role":"user","content":7}]}}',
        b'{"input":{"messages":[{"role":"user","content":["hi"]}]}}',
        b'{"input":[]}',
        b'{"parameters":[]}',
        b'{"parameters":{"stop":[' + b"[]," * 400_000 + b"[]]}}",
        b'{"input":{"messages":[{"role":"user","content":[{"text":[[]]}]}]}}',
        b'{"input":{"messages":[' + b"{}," * 600_000 + b"{}]}}",
        b'{"input":{"messages":[{"content":[{"video":[' + b'"",' * 5_000_000 + b'""]}]}]}}',
        b'{"input":{"messages":[{"role":"assistant","tool_calls":[7]}]}}',
    ],
)
def test_what_is_not_a_request_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedBody) as raised:
        schema.parse(body)
    assert raised.value.message.startswith("Required body invalid, please check the request body format. ")


def test_unknown_keys_and_nulls_are_tolerated() -> None:
    body = b'{"stream":true,"resources":{},"model":"m","parameters":null,"input":{"messages":[{"role":null,"x":1}]}}'
    assert schema.parse(body).model == "m"


def test_of_a_part_only_what_is_known_is_built() -> None:
    body = b'{"input":{"messages":[{"content":[{"text":"a","cache_control":{"type":"ephemeral"},"x":[[[1]]]}]}]}}'
    messages = schema.parse(body).input
    assert messages is not None
    assert messages.messages is not None
    assert messages.messages[0].content == [{"text": "a"}]


def test_of_a_repeated_key_the_last_counts() -> None:
    assert schema.parse(b'{"model":"a","model":"b"}').model == "b"


@given(st.binary(max_size=200))
def test_bytes_are_parsed_or_refused(body: bytes) -> None:
    with suppress(MalformedBody):
        schema.parse(body)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(st.fixed_dictionaries({}, optional={"model": json_values, "input": json_values, "parameters": json_values}))
def test_json_of_any_shape_is_parsed_or_refused(value: dict[str, Any]) -> None:
    with suppress(MalformedBody):
        schema.parse(orjson.dumps(value))
