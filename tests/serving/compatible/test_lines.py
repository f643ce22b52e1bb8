from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import msgspec
import pytest

from serving.compatible import schema
from serving.compatible.batch import lines
from serving.errors import MalformedBody


async def test_empty_lines_let_other_requests_pass_in_between() -> None:
    async def empty() -> AsyncGenerator[bytes, None]:
        yield b"\n" * 200_000

    passed = 0

    async def others() -> None:
        nonlocal passed
        while True:
            passed += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    assert [line async for line in lines.split(empty())] == []
    task.cancel()
    assert passed >= 20


def test_a_line_of_a_batch_may_have_as_many_values_as_a_body() -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":[' + b",".join([b"{}"] * 600_000) + b"]}]}"
    with pytest.raises(MalformedBody, match="limited to 500000 objects"):
        schema.parse(msgspec.Raw(body))
