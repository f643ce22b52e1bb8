from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.dashscope import parameters
from serving.dashscope.parameters import Parameters
from serving.errors import InvalidRequest
from serving.generation import ResponseFormat, Sampling
from tests.serving.dashscope.test_schema import json_values

SCHEMA = {"type": "object", "properties": {"value": {"type": "number"}}}


def read(**values: Any) -> Parameters:
    return parameters.read(values, model="qwen3-vl-30b", max_output_tokens=32768)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, Sampling()),
        ({"temperature": 0}, Sampling(temperature=0.0)),
        ({"temperature": 1.99, "top_p": 1}, Sampling(temperature=1.99, top_p=1.0)),
        ({"temperature": None, "seed": None, "stop": None}, Sampling()),
        ({"top_k": 20}, Sampling(top_k=20)),
        ({"top_k": 101}, Sampling(top_k=0)),
        ({"top_k": None}, Sampling(top_k=0)),
        (
            {"presence_penalty": -2, "repetition_penalty": 1.05},
            Sampling(presence_penalty=-2.0, repetition_penalty=1.05),
        ),
        ({"frequency_penalty": 9}, Sampling(frequency_penalty=2.0)),
        ({"max_tokens": 100, "max_completion_tokens": 50, "max_length": 70}, Sampling(max_tokens=50)),
        ({"max_tokens": 100.0}, Sampling(max_tokens=100)),
        ({"seed": 2**63 - 1}, Sampling(seed=2**63 - 1)),
        ({"stop": "END"}, Sampling(stop=("END",))),
        ({"stop": ["a", "b"]}, Sampling(stop=("a", "b"))),
        ({"stop": [1, 2]}, Sampling(stop_token_ids=(1, 2))),
        ({"stop": [[1], [2]]}, Sampling(stop_token_ids=(1, 2))),
        ({"n": 1, "enable_search": False, "enable_thinking": False, "logprobs": False, "tools": []}, Sampling()),
        ({"result_format": "text", "vl_high_resolution_images": True, "never_heard_of": {}}, Sampling()),
    ],
)
def test_mapped_clamped_or_ignored(given: dict[str, Any], expected: Sampling) -> None:
    assert read(**given).sampling == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"temperature": 2}, "Temperature should be in [0.0, 2.0)"),
        ({"temperature": -0.1}, "Temperature should be in [0.0, 2.0)"),
        ({"temperature": "hot"}, "'temperature' must be Float"),
        ({"temperature": True}, "'temperature' must be Float"),
        ({"temperature": 10**400}, "Temperature should be in [0.0, 2.0)"),
        ({"top_p": 0}, "Range of top_p should be (0.0, 1.0]"),
        ({"top_k": -1}, "Parameter top_k be greater than or equal to 0"),
        ({"top_k": 1.5}, "'top_k' must be Integer"),
        ({"repetition_penalty": 0}, "Repetition_penalty should be greater than 0.0"),
        ({"presence_penalty": 2.1}, "Presence_penalty should be in [-2.0, 2.0]"),
        ({"max_tokens": 0}, "Range of max_tokens should be [1, 32768]"),
        ({"max_length": 40000}, "Range of max_tokens should be [1, 32768]"),
        ({"seed": -1}, "Range of seed should be [0, 9223372036854775807]"),
        ({"n": 5}, "Range of n should be [1, 4]"),
        ({"n": 2}, "Range of n should be [1, 1] for the model qwen3-vl-30b, got 2"),
        ({"stop": {}}, parameters.STOP_REFUSAL),
        ({"stop": ["a", 1]}, parameters.STOP_REFUSAL),
        ({"stop": [[1, 2]]}, parameters.STOP_REFUSAL),
        ({"stop": [-1]}, parameters.STOP_REFUSAL),
        ({"enable_search": True}, "This model does not support enable_search."),
        ({"enable_thinking": True}, "The model qwen3-vl-30b does not support enable_thinking."),
        ({"tools": [{"type": "function"}]}, "The tool call is not supported."),
        ({"incremental_output": "yes"}, "'incremental_output' must be Boolean"),
    ],
)
def test_refused_in_the_clouds_words(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        read(**given)
    assert raised.value.message == message


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        ({"type": "text"}, None),
        ({"type": "json_object"}, ResponseFormat("json_object")),
        (
            {"type": "json_schema", "json_schema": {"name": "chart", "strict": True, "schema": SCHEMA}},
            ResponseFormat("json_schema", "chart", SCHEMA),
        ),
    ],
)
def test_response_formats(given: Any, expected: ResponseFormat | None) -> None:
    assert read(response_format=given).response_format == expected


@pytest.mark.parametrize("given", ["json_object", {}, {"type": "xml"}, {"type": "json_schema"}, {"type": []}])
def test_unknown_response_formats_are_refused(given: Any) -> None:
    with pytest.raises(InvalidRequest, match="Unknown format of response_format"):
        read(response_format=given)


def test_increments_are_the_default() -> None:
    assert read().incremental
    assert not read(incremental_output=False).incremental


@given(st.dictionaries(st.sampled_from(["temperature", "top_k", "max_tokens", "stop", "n", "seed"]), json_values))
def test_any_value_is_read_or_refused(values: dict[str, Any]) -> None:
    with suppress(InvalidRequest):
        read(**values)
