from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import jsonschema
from jsonschema.exceptions import best_match
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from client.errors import ConfigurationError, InvalidAnswer
from client.models import Answer

Schema: TypeAlias = Mapping[str, Any] | type[Any]
"""A JSON Schema, or a pydantic model (any class with `model_json_schema` and `model_validate`)."""

_FENCED = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL)


def json_in(text: str) -> Any:
    """The JSON value of an answer: the whole text, a fenced block, or the first object or array in a sentence.

    Where the text breaks off inside an object or array, there is none: a part of it would pass for the whole.
    Escapes of half a character (`\\ud83d` alone) become U+FFFD, since no file can hold them.

    Raises:
        ValueError: there is none.
    """
    value = _found(text)
    if r"\ud" not in text.casefold():
        return value
    return json.loads(whole_characters(json.dumps(value, ensure_ascii=False)))


def _found(text: str) -> Any:
    for candidate in [text, *_FENCED.findall(text)]:
        with suppress(ValueError):
            return _parse(candidate.strip())
    for start in (match.start() for match in re.finditer(r"[{\[]", text)):
        try:
            return _DECODER.raw_decode(text, start)[0]
        except json.JSONDecodeError as error:
            if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string"):
                break
        except ValueError:
            continue
    raise ValueError("there is no JSON in the answer")


def whole_characters(text: str) -> str:
    """Text that can be written as UTF-8: half a surrogate pair becomes U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits[:20]} is too large for a number, and would be written as Infinity")
    return number


_DECODER = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)


def _parse(text: str) -> Any:
    return json.loads(text, parse_constant=_refuse, parse_float=_finite)


def read_schema(path: Path) -> dict[str, Any]:
    """A JSON Schema from a file.

    Raises:
        ConfigurationError: unreadable, not JSON, or not a schema.
    """
    try:
        schema = json.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise ConfigurationError(f"the schema {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigurationError(f"the schema {path} is not JSON: {error}") from error
    if not isinstance(schema, dict):
        raise ConfigurationError(f"the schema {path} is not a JSON object")
    check_schema(schema)
    return schema


def as_schema(schema: Schema) -> Mapping[str, Any]:
    """The JSON Schema of a schema or of a pydantic model.

    Raises:
        ConfigurationError: it is neither.
    """
    if isinstance(schema, Mapping):
        return schema
    make = getattr(schema, "model_json_schema", None)
    if make is None:
        raise ConfigurationError(f"a schema is a JSON Schema (dict) or a pydantic model, not {schema!r}")
    return dict(make())


def typed(value: Any, schema: Schema, answer: Answer) -> Any:
    """The value as an instance of the pydantic model, or as it is for a JSON Schema.

    Raises:
        InvalidAnswer: the model's own validators refuse it.
    """
    if isinstance(schema, Mapping):
        return value
    try:
        return schema.model_validate(value)
    except ValueError as error:
        raise InvalidAnswer(f"the answer does not fit {schema.__name__}: {_short(error)}", answer) from error


def _short(error: ValueError) -> str:
    listed = getattr(error, "errors", None)
    if listed is None:
        return str(error)
    return "; ".join(f"{each['msg']} at {'.'.join(map(str, each['loc'])) or 'the top'}" for each in listed())


def described(schema: Mapping[str, Any]) -> str:
    """What is added to the prompt where the server cannot constrain the answer itself."""
    return f"\n\nAnswer with JSON alone that fits this JSON Schema:\n{json.dumps(schema, ensure_ascii=False)}"


def check_schema(schema: Mapping[str, Any]) -> None:
    """Raises ConfigurationError where `schema` is not valid JSON Schema."""
    try:
        _validator(json.dumps(schema))
    except jsonschema.SchemaError as error:
        raise ConfigurationError(f"not a valid JSON Schema: {error.message} at {error.json_path}") from error


def response_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The parameter that makes the server constrain its answer to `schema`."""
    name = re.sub(r"[^A-Za-z0-9_-]", "_", str(schema.get("title", "")))[:64] or "answer"
    return {"type": "json_schema", "json_schema": {"name": name, "schema": dict(schema), "strict": True}}


def validated(answer: Answer, schema: Mapping[str, Any]) -> Any:
    """The JSON in `answer`, fitting `schema`.

    Raises:
        InvalidAnswer: no JSON, cut off at the token limit, or where it does not fit.
    """
    try:
        value = json_in(answer.text)
    except (ValueError, RecursionError) as error:
        cut = "; it was cut off at the token limit" if answer.finish_reason == "length" else ""
        raise InvalidAnswer(f"{error}{cut}", answer) from error
    if problem := _misfit(value, schema):
        raise InvalidAnswer(f"the answer does not fit the schema: {problem}", answer)
    return value


def _misfit(value: Any, schema: Mapping[str, Any]) -> str:
    try:
        error = best_match(_validator(json.dumps(schema)).iter_errors(value))
    except Unresolvable as unresolved:
        return f"the schema's reference {unresolved.ref} leads nowhere"
    return "" if error is None else f"{error.message} at {error.json_path}"


@lru_cache(maxsize=8)
def _validator(schema: str) -> Validator:
    """Kept, since checking a schema takes longer than checking an answer.

    The registry of its own keeps jsonschema from fetching references over the network.
    """
    parsed = json.loads(schema)
    validator_for(parsed).check_schema(parsed)
    return validator_for(parsed)(parsed, registry=Registry())
