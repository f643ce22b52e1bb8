from __future__ import annotations

from typing import Any

import httpx
import pytest

from serving import schemas
from serving.errors import InvalidRequest
from tests.fakes import FakeEngine


def text(**limits: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": {"type": "string", **limits}}, "required": ["a"]}


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


INVOICE = {
    "type": "object",
    "properties": {
        "number": {"type": "string", "pattern": r"^[A-Z]{2}-\d{4,10}(/[0-9a-f]{8}){0,4}$"},
        "date": {"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}$"},
        "lines": {"type": "array", "maxItems": 500, "items": {"$ref": "#/$defs/line"}},
        "pattern": {"type": "string", "maxLength": 2000},
    },
    "patternProperties": {"^x-": {"type": "number"}},
    "$defs": {"line": {"type": "object", "properties": {f"column {i}": {"type": "number"} for i in range(100)}}},
}


LENGTHS = {"type": "object", "properties": {f"p{i}": {"type": "string", "maxLength": 500} for i in range(100)}}


@pytest.mark.parametrize("schema", [INVOICE, {}, nested(30), text(enum=[str(i) for i in range(1000)]), LENGTHS])
def test_schemas_that_people_write_pass(schema: dict[str, Any]) -> None:
    schemas.check(schema, "response_format")


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        (text(pattern="a{10000}"), "a pattern of 10000 characters, repetitions written out"),
        (text(pattern="((a{10}){10}){10}"), "a pattern of 1000 characters"),
        (text(pattern="[a-z]{,9}(?:x|yz{200}){3,9}b"), "a pattern of 1"),
        (text(pattern="a" * 513), "a pattern of 513 characters"),
        ({"patternProperties": {"a{99999}": {}}}, "a pattern of 99999 characters"),
        ({"anyOf": [text(pattern=f"{i}a{{128}}") for i in range(33)]}, "patterns of more than 4096 characters"),
        (text(maxLength=10**9), "a maxLength of 1000000000"),
        (text(pattern="^.{0,129}$"), "a repetition of 129 characters; at most 128"),
        (text(pattern=r"^(\d{10}-){12}$"), "a repetition of 132 characters"),
        ({"anyOf": [text(pattern=f"^{i}.{{100}}$") for i in range(6)]}, "patterns of more than 4096 characters"),
        ({"anyOf": [text(pattern=f"^{i}[ -~]{{100}}$") for i in range(6)]}, "patterns of more than 4096 characters"),
        ({"anyOf": [text(maxLength=300 + i) for i in range(9)]}, "of 1152 characters together.* equal ones count once"),
        ({"anyOf": [text(minLength=i + 1, maxLength=300) for i in range(9)]}, "of 1152 characters together"),
        ({"anyOf": [text(minLength=300 + i) for i in range(9)]}, "of 1152 characters together"),
        (
            {"anyOf": [text(minLength=-9999, maxLength=-9999), *(text(minLength=300 + i) for i in range(9))]},
            "of 1152 characters together",
        ),
        ({"type": "array", "minItems": 1e9}, "a minItems of 1000000000"),
        (nested(40), "nested deeper than 64 levels"),
        (nested(100_000 // 100), "nested deeper than 64 levels"),
        (text(enum=list(range(6000))), "more than 5000 values"),
        (text(description="x" * 70_000), "bytes, at most 65536"),
        ({"$ref": "http://169.254.169.254/latest"}, "a \\$ref out of itself"),
    ],
)
def test_what_would_hold_the_engine_is_refused(schema: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidRequest, match=f"The JSON schema of the tool 'f' .*{why}"):
        schemas.check(schema, "the tool 'f'")


@pytest.mark.parametrize(
    ("pattern", "size"),
    [
        ("abc", 3),
        ("a*b+c?", 3),
        (r"\d{3}", 3),
        (r"[\]x{9}]{2}", 2),
        ("(ab){3}c", 7),
        ("(a(bc){2}){3}", 15),
        ("a{2,5}", 5),
        ("a{4,}", 4),
        ("a{0}", 1),
        ("(((", 0),
        (")a{3}", 3),
        ("{5}", 0),
    ],
)
def test_repetitions_are_written_out(pattern: str, size: int) -> None:
    assert schemas.written_out(pattern).size == size


@pytest.mark.parametrize(
    ("pattern", "wide", "repeated"),
    [
        (r"ab{3}[a-z]\d\w*", 0, 3),
        (r".\S[^x]{7}", 9, 7),
        (r"(a.){3}[ -~][\D]", 5, 6),
        (r"[\u4e00-\u9fff]{2}", 0, 2),
        ("[一-龥]{2}", 2, 2),
        (r"\.[.]", 0, 0),
        (")(.", 1, 0),
    ],
)
def test_what_is_dear_in_a_pattern_is_counted(pattern: str, wide: int, repeated: int) -> None:
    assert (schemas.written_out(pattern).wide, schemas.written_out(pattern).repeated) == (wide, repeated)


async def test_a_request_with_such_a_schema_is_refused(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": text(pattern="a{10000}")}}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": text(pattern="a{10000}")}}
    for given in ({"tools": [tool]}, {"response_format": wanted}):
        body = {"model": "qwen3-vl-30b", "messages": [{"role": "user", "content": "json"}], **given}
        answer = await client.post("/v1/chat/completions", json=body)
        assert answer.status_code == 400
        assert "a pattern of 10000 characters" in answer.json()["error"]["message"]
    assert engine.history == []
