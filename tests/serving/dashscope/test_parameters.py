from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.dashscope import parameters
from serving.dashscope.parameters import Parameters
from serving.errors import InvalidRequest
from serving.generation import ResponseFormat, Sampling, Thinking, Tool, Tools
from serving.reasoning import Reasoning
from tests.serving.dashscope.test_schema import json_values

SCHEMA = {"type": "object", "properties": {"value": {"type": "number"}}}


FUNCTION = {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": SCHEMA}}
LOOK = Tool("look", "Looks.", SCHEMA)
HYBRID = Reasoning("hybrid", 1000)
ALWAYS = Reasoning("always", 1000)


def read(thinks: Reasoning | None = None, **values: Any) -> Parameters:
    given = {} if thinks is None else {"thinks": thinks}
    return parameters.read(values, model="qwen3-vl-30b", max_output_tokens=32768, **given)


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
        (
            {"max_tokens": 100, "max_completion_tokens": 50, "max_length": 70},
            Sampling(max_tokens=70, max_completion_tokens=50),
        ),
        ({"max_completion_tokens": 100_000}, Sampling(max_completion_tokens=100_000)),
        ({"n": 4}, Sampling(n=4)),
        ({"logprobs": True}, Sampling(logprobs=0)),
        ({"logprobs": True, "top_logprobs": 5}, Sampling(logprobs=5)),
        ({"top_logprobs": 5}, Sampling()),
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
        ({"n": 0}, "Range of n should be [1, 4]"),
        ({"logprobs": True, "top_logprobs": 6}, "Range of top_logprobs should be [0, 5]"),
        ({"logprobs": 1}, "'logprobs' must be Boolean"),
        ({"max_completion_tokens": 0}, "Range of max_completion_tokens should be [1, 2147483647]"),
        ({"max_completion_tokens": 10**400}, "Range of max_completion_tokens should be [1, 2147483647]"),
        ({"result_format": "xml"}, "result_format should be 'message' or 'text', got 'xml'"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "At most 4 stop strings can be given, got 5"),
        ({"stop": [1] * 1025}, "At most 1024 stop tokens can be given, got 1025"),
        ({"stop": {}}, parameters.STOP_REFUSAL),
        ({"stop": ["a", 1]}, parameters.STOP_REFUSAL),
        ({"stop": [[1, 2]]}, parameters.LONG_STOP.format(2)),
        ({"stop": [[1, "a"]]}, parameters.STOP_REFUSAL),
        ({"stop": [[]]}, parameters.STOP_REFUSAL),
        ({"stop": [""]}, parameters.STOP_REFUSAL),
        ({"stop": [-1]}, parameters.STOP_REFUSAL),
        ({"enable_search": True}, "This model does not support enable_search."),
        ({"enable_thinking": True}, "The model qwen3-vl-30b does not support enable_thinking."),
        ({"vl_high_resolution_images": 1}, "'vl_high_resolution_images' must be Boolean"),
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


def test_switches() -> None:
    off, on = read(), read(vl_high_resolution_images=True, vl_enable_image_hw_output=True, preserve_thinking=True)
    assert (off.high_resolution, off.image_sizes, off.preserve_thinking) == (False, False, False)
    assert (on.high_resolution, on.image_sizes, on.preserve_thinking) == (True, True, True)
    assert read().incremental is None
    assert read(incremental_output=False).incremental is False
    assert read(result_format="text").text_result


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"tools": []}, None),
        ({"tools": None, "tool_choice": "auto"}, None),
        ({"tools": [FUNCTION]}, Tools((LOOK,))),
        ({"tools": [FUNCTION], "tool_choice": "none", "tool_stream": True}, Tools((LOOK,), "none")),
        ({"tools": [FUNCTION], "tool_choice": "required"}, Tools((LOOK,), "required")),
        (
            {"tools": [FUNCTION], "tool_choice": {"type": "function", "function": {"name": "look"}}},
            Tools((LOOK,), "look"),
        ),
        ({"tools": [{"function": {"name": "f"}}], "parallel_tool_calls": True}, Tools((Tool("f"),), "auto", True)),
    ],
)
def test_tools(given: dict[str, Any], expected: Tools | None) -> None:
    assert read(**given).tools == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tools": {}}, "'tools' must be a list of at most 512 functions"),
        ({"tools": [FUNCTION] * 513}, "'tools' must be a list of at most 512 functions"),
        ({"tools": [{"type": "function"}]}, "An item of 'tools' must be of type 'function' and have a 'function'"),
        ({"tools": [{"type": "web", "function": {}}]}, "An item of 'tools' must be of type 'function'"),
        ({"tools": [7]}, "An item of 'tools' must be of type 'function'"),
        ({"tools": [{"function": {"name": ""}}]}, "The 'function' of a tool must have a 'name'"),
        ({"tools": [{"function": {"name": 7}}]}, "The 'name' of a tool must be a string"),
        ({"tools": [{"function": {"name": "search"}}]}, "Tool names are not allowed to be [search]"),
        ({"tools": [{"function": {"name": "auto"}}]}, "Tool names are not allowed to be [auto]"),
        ({"tools": [{"function": {"name": "f", "description": []}}]}, "The 'description' of a tool must be a string"),
        ({"tools": [{"function": {"name": "f", "parameters": []}}]}, "The 'parameters' of the tool 'f' must be a JSON"),
        ({"tools": [FUNCTION], "tool_choice": "some"}, 'tool_choice is one of the strings that should be ["none", "a'),
        ({"tools": [FUNCTION], "tool_choice": {"type": "function"}}, "tool_choice is one of the strings that should"),
        (
            {"tools": [FUNCTION], "tool_choice": {"function": {"name": "g"}}},
            "The tool 'g' of tool_choice is none of the tools",
        ),
    ],
)
def test_tools_that_are_none(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        read(**given)
    assert raised.value.message.startswith(message)
    assert raised.value.param in given


@pytest.mark.parametrize(
    ("thinks", "given", "expected"),
    [
        (None, {}, Thinking()),
        (None, {"enable_thinking": False, "thinking_budget": 5}, Thinking()),
        (HYBRID, {}, Thinking(False)),
        (HYBRID, {"thinking_budget": 5}, Thinking(False)),
        (HYBRID, {"enable_thinking": True, "thinking_budget": 5}, Thinking(True, 5)),
        (ALWAYS, {}, Thinking(True)),
        (ALWAYS, {"enable_thinking": True, "thinking_budget": 1000}, Thinking(True, 1000)),
    ],
)
def test_thinking(thinks: Reasoning | None, given: dict[str, Any], expected: Thinking) -> None:
    assert read(thinks, **given).thinking == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"enable_thinking": False}, "The value of the enable_thinking parameter is restricted to True."),
        ({"thinking_budget": 0}, "The thinking_budget parameter must be a positive integer and not greater than 1000"),
        ({"thinking_budget": 1001}, "The thinking_budget parameter must be a positive integer and not greater than"),
        ({"enable_thinking": "yes"}, "'enable_thinking' must be Boolean"),
    ],
)
def test_thinking_that_cannot_be(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        read(ALWAYS, **given)
    assert raised.value.message.startswith(message)


@given(
    st.dictionaries(
        st.sampled_from(
            [
                *("temperature", "top_p", "top_k", "max_tokens", "max_completion_tokens", "stop", "n", "seed"),
                *("tools", "tool_choice", "logprobs", "top_logprobs", "response_format", "result_format"),
                *("enable_thinking", "thinking_budget", "frequency_penalty", "repetition_penalty"),
            ]
        ),
        json_values,
        max_size=3,
    )
)
def test_any_value_is_read_or_refused(values: dict[str, Any]) -> None:
    with suppress(InvalidRequest):
        read(**values)
