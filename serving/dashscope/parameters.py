from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from serving.errors import InvalidRequest, ThinkingUnsupported
from serving.generation import ResponseFormat, Sampling

Values: TypeAlias = Mapping[str, Any]
Number = TypeVar("Number", int, float)

MAX_SEED = 2**63 - 1
TOP_K_OFF = 100
"""Above this `top_k` means "all tokens" in the cloud."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """What `parameters` says once it has been checked. Names that do not concern the model are not looked at."""

    sampling: Sampling
    response_format: ResponseFormat | None
    incremental: bool


def read(values: Values, *, model: str, max_output_tokens: int) -> Parameters:
    """Raises `InvalidRequest` with the cloud's text for a value of the wrong type or out of its range."""
    _refuse_unsupported(values, model)
    stop, stop_token_ids = _stop(values.get("stop"))
    sampling = Sampling(
        temperature=_checked(
            values, "temperature", _float, lambda v: 0 <= v < 2, "Temperature should be in [0.0, 2.0)"
        ),
        top_p=_checked(values, "top_p", _float, lambda v: 0 < v <= 1, "Range of top_p should be (0.0, 1.0]"),
        top_k=_top_k(values),
        repetition_penalty=_checked(
            values, "repetition_penalty", _float, lambda v: v > 0, "Repetition_penalty should be greater than 0.0"
        ),
        presence_penalty=_checked(
            values, "presence_penalty", _float, lambda v: -2 <= v <= 2, "Presence_penalty should be in [-2.0, 2.0]"
        ),
        frequency_penalty=_clamped(values, "frequency_penalty", -2.0, 2.0),
        max_tokens=_max_tokens(values, max_output_tokens),
        seed=_checked(values, "seed", _int, lambda v: 0 <= v <= MAX_SEED, f"Range of seed should be [0, {MAX_SEED}]"),
        stop=stop,
        stop_token_ids=stop_token_ids,
    )
    incremental = _bool(values, "incremental_output")
    return Parameters(sampling, _response_format(values.get("response_format")), incremental is not False)


def _refuse_unsupported(values: Values, model: str) -> None:
    if _bool(values, "enable_thinking"):
        raise ThinkingUnsupported(model)
    if _bool(values, "enable_search"):
        raise InvalidRequest("This model does not support enable_search.")
    if values.get("tools"):
        raise InvalidRequest("The tool call is not supported.")
    if _bool(values, "logprobs"):
        raise InvalidRequest("This model does not support logprobs.")
    n = _checked(values, "n", _int, lambda v: 1 <= v <= 4, "Range of n should be [1, 4]")
    if n is not None and n > 1:
        raise InvalidRequest(f"Range of n should be [1, 1] for the model {model}, got {n}")


def _float(name: str, value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) if abs(value) < 1e308 else float("inf")
    raise InvalidRequest(f"'{name}' must be Float")


def _int(name: str, value: object) -> int:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise InvalidRequest(f"'{name}' must be Integer")


def _bool(values: Values, name: str) -> bool | None:
    value = values.get(name)
    if value is None or isinstance(value, bool):
        return value
    raise InvalidRequest(f"'{name}' must be Boolean")


def _checked(
    values: Values, name: str, convert: Callable[[str, object], Number], valid: Callable[[Number], bool], refusal: str
) -> Number | None:
    """The number under `name`; None when it is absent or null, as frameworks send nulls for what is not set."""
    if values.get(name) is None:
        return None
    number = convert(name, values[name])
    if valid(number):
        return number
    raise InvalidRequest(refusal)


def _clamped(values: Values, name: str, low: float, high: float) -> float | None:
    value = values.get(name)
    return None if value is None else min(max(_float(name, value), low), high)


def _top_k(values: Values) -> int | None:
    if "top_k" in values and values["top_k"] is None:
        return 0
    refusal = "Parameter top_k be greater than or equal to 0"
    top_k = _checked(values, "top_k", _int, lambda v: v >= 0, refusal)
    return 0 if top_k is not None and top_k > TOP_K_OFF else top_k


def _max_tokens(values: Values, limit: int) -> int | None:
    """The smallest of the three spellings; `max_length` is what old Java clients send."""
    refusal = f"Range of max_tokens should be [1, {limit}]"
    spellings = ("max_tokens", "max_completion_tokens", "max_length")
    given = [_checked(values, name, _int, lambda v: 1 <= v <= limit, refusal) for name in spellings]
    return min((number for number in given if number is not None), default=None)


STOP_REFUSAL = (
    'The "stop" parameter must be of type "str", "list[str]", "list[int]", or "list[list[int]]", '
    "and all elements within the list must be of the same type."
)


def _stop(value: object) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Stop strings and stop token ids. A sequence of several token ids cannot be watched for by the engine."""
    items = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(items, list):
        raise InvalidRequest(STOP_REFUSAL)
    if all(isinstance(item, str) and item for item in items):
        return tuple(items), ()
    if all(isinstance(item, list) and len(item) == 1 for item in items):
        items = [item[0] for item in items]
    if all(isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 2**31 for item in items):
        return (), tuple(items)
    raise InvalidRequest(STOP_REFUSAL)


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
        f"'json_schema'. The response_format type from user is {str(kind)[:80]}."
    )
