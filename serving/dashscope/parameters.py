from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from serving import reasoning
from serving.dashscope import tools
from serving.errors import InvalidRequest
from serving.generation import ResponseFormat, Sampling, Thinking, Tools
from serving.reasoning import Reasoning

Values: TypeAlias = Mapping[str, Any]
Number = TypeVar("Number", int, float)

MAX_SEED = 2**63 - 1
TOP_K_OFF = 100
"""Above this `top_k` means "all tokens" in the cloud."""
MAX_TOP_LOGPROBS = 5
MAX_COMPLETION_TOKENS = 2**31 - 1
"""Thoughts included, of which no page of the cloud says how many there may be; engines count in 32 bits."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """What `parameters` says once it has been checked. Names that do not concern the model are not looked at.

    `incremental` is whether frames are increments; None leaves it to the default. `text_result` asks the text path for
    its legacy form. `image_sizes` asks for the sizes at which the model saw the images; `high_resolution` for the
    largest ones. Thoughts of earlier turns are the model's only with `preserve_thinking`.
    """

    sampling: Sampling
    response_format: ResponseFormat | None
    tools: Tools | None
    thinking: Thinking
    incremental: bool | None
    text_result: bool
    high_resolution: bool
    image_sizes: bool
    preserve_thinking: bool


def read(values: Values, *, model: str, max_output_tokens: int, thinks: Reasoning = reasoning.NEVER) -> Parameters:
    """Raises `InvalidRequest` with the cloud's text for a value of the wrong type or out of its range."""
    if boolean(values, "enable_search"):
        raise InvalidRequest("This model does not support enable_search.", param="enable_search")
    parallel = boolean(values, "parallel_tool_calls")
    return Parameters(
        sampling=_sampling(values, max_output_tokens),
        response_format=_response_format(values.get("response_format")),
        tools=tools.read(values.get("tools"), values.get("tool_choice"), parallel=bool(parallel)),
        thinking=_thinking(values, model, thinks),
        incremental=boolean(values, "incremental_output"),
        text_result=_text_result(values.get("result_format")),
        high_resolution=bool(boolean(values, "vl_high_resolution_images")),
        image_sizes=bool(boolean(values, "vl_enable_image_hw_output")),
        preserve_thinking=bool(boolean(values, "preserve_thinking")),
    )


def _thinking(values: Values, model: str, thinks: Reasoning) -> Thinking:
    enabled = reasoning.enabled(boolean(values, "enable_thinking"), thinks, model)
    refusal = f"The thinking_budget parameter must be a positive integer and not greater than {thinks.budget}"
    budget = checked(values, "thinking_budget", integer, lambda v: 0 < v <= thinks.budget, refusal)
    return Thinking() if thinks.mode == "never" else Thinking(enabled, budget if enabled else None)


def _sampling(values: Values, max_output_tokens: int) -> Sampling:
    stop, stop_token_ids = _stop(values.get("stop"))
    return Sampling(
        temperature=checked(values, "temperature", number, lambda v: 0 <= v < 2, "Temperature should be in [0.0, 2.0)"),
        top_p=checked(values, "top_p", number, lambda v: 0 < v <= 1, "Range of top_p should be (0.0, 1.0]"),
        top_k=_top_k(values),
        repetition_penalty=checked(
            values, "repetition_penalty", number, lambda v: v > 0, "Repetition_penalty should be greater than 0.0"
        ),
        presence_penalty=checked(
            values, "presence_penalty", number, lambda v: -2 <= v <= 2, "Presence_penalty should be in [-2.0, 2.0]"
        ),
        frequency_penalty=_clamped(values, "frequency_penalty", -2.0, 2.0),
        max_tokens=_max_tokens(values, ("max_tokens", "max_length"), max_output_tokens),
        max_completion_tokens=_max_tokens(values, ("max_completion_tokens",), MAX_COMPLETION_TOKENS),
        seed=checked(values, "seed", integer, lambda v: 0 <= v <= MAX_SEED, f"Range of seed should be [0, {MAX_SEED}]"),
        stop=stop,
        stop_token_ids=stop_token_ids,
        n=checked(values, "n", integer, lambda v: 1 <= v <= 4, "Range of n should be [1, 4]") or 1,
        logprobs=_logprobs(values),
    )


def number(name: str, value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) if abs(value) < 1e308 else float("inf")
    raise InvalidRequest(f"'{name}' must be Float", param=name)


def integer(name: str, value: object) -> int:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise InvalidRequest(f"'{name}' must be Integer", param=name)


def boolean(values: Values, name: str) -> bool | None:
    value = values.get(name)
    if value is None or isinstance(value, bool):
        return value
    raise InvalidRequest(f"'{name}' must be Boolean", param=name)


def checked(
    values: Values, name: str, convert: Callable[[str, object], Number], valid: Callable[[Number], bool], refusal: str
) -> Number | None:
    """The number under `name`; None when it is absent or null, as frameworks send nulls for what is not set."""
    if values.get(name) is None:
        return None
    value = convert(name, values[name])
    if valid(value):
        return value
    raise InvalidRequest(refusal, param=name)


def _clamped(values: Values, name: str, low: float, high: float) -> float | None:
    value = values.get(name)
    return None if value is None else min(max(number(name, value), low), high)


def _top_k(values: Values) -> int | None:
    if "top_k" in values and values["top_k"] is None:
        return 0
    refusal = "Parameter top_k be greater than or equal to 0"
    top_k = checked(values, "top_k", integer, lambda v: v >= 0, refusal)
    return 0 if top_k is not None and top_k > TOP_K_OFF else top_k


def _max_tokens(values: Values, spellings: tuple[str, ...], limit: int) -> int | None:
    """The smallest of the spellings; `max_length` is what old Java clients send."""
    refusal = f"Range of {spellings[0]} should be [1, {limit}]"
    given = [checked(values, name, integer, lambda v: 1 <= v <= limit, refusal) for name in spellings]
    return min((each for each in given if each is not None), default=None)


def _logprobs(values: Values) -> int | None:
    """How many alternatives each token comes with. A number without `logprobs` asks for nothing."""
    refusal = f"Range of top_logprobs should be [0, {MAX_TOP_LOGPROBS}]"
    top = checked(values, "top_logprobs", integer, lambda v: 0 <= v <= MAX_TOP_LOGPROBS, refusal)
    return top or 0 if boolean(values, "logprobs") else None


def _text_result(value: object) -> bool:
    if value in (None, "message", "text"):
        return value == "text"
    raise InvalidRequest(f"result_format should be 'message' or 'text', got {str(value)[:80]!r}", param="result_format")


STOP_REFUSAL = (
    'The "stop" parameter must be of type "str", "list[str]", "list[int]", or "list[list[int]]", '
    "and all elements within the list must be of the same type."
)


LONG_STOP = "A stop sequence of {} token ids is not supported by this server; give it as a string."
MAX_STOPS = 4
"""Stop strings that the engine takes with one request."""
MAX_STOP_TOKENS = 1_024


def _stop(value: object) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Stop strings and stop token ids. A sequence of several token ids cannot be watched for by the engine."""
    items = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(items, list):
        raise InvalidRequest(STOP_REFUSAL, param="stop")
    if all(isinstance(item, str) and item for item in items):
        return tuple(_few(items, MAX_STOPS, "strings")), ()
    if all(isinstance(item, list) and item for item in items):
        longest = max(items, key=len)
        if len(longest) > 1:
            tokens = all(_is_token(token) for token in longest)
            raise InvalidRequest(LONG_STOP.format(len(longest)) if tokens else STOP_REFUSAL, param="stop")
        items = [item[0] for item in items]
    if all(_is_token(item) for item in items):
        return (), tuple(_few(items, MAX_STOP_TOKENS, "tokens"))
    raise InvalidRequest(STOP_REFUSAL, param="stop")


def _is_token(item: object) -> bool:
    return isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 2**31


def _few(items: list[Any], limit: int, what: str) -> list[Any]:
    if len(items) > limit:
        raise InvalidRequest(f"At most {limit} stop {what} can be given, got {len(items)}", param="stop")
    return items


def _response_format(value: object) -> ResponseFormat | None:
    if value is None:
        return None
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return ResponseFormat("json_object")
    schema = value.get("json_schema") if isinstance(value, dict) and kind == "json_schema" else None
    if isinstance(schema, dict) and isinstance(schema.get("schema"), dict):
        return ResponseFormat("json_schema", str(schema.get("name") or "answer"), schema["schema"])
    raise InvalidRequest(
        "Unknown format of response_format, response_format should be a dict, includes 'type' and an optional key "
        f"'json_schema'. The response_format type from user is {str(kind)[:80]}.",
        param="response_format",
    )
