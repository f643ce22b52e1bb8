"""What becomes of an answer that cannot be used, and how images travel: over real sockets."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, field_validator

from client import errors
from client.flaws import repeats
from client.images import data_uri
from client.retry import ONCE, Policy
from client.session import Session
from tests.client import server as replies
from tests.client.conftest import png
from tests.client.server import Scripted

SCHEMA = {"type": "object", "properties": {"v": {"type": "number"}}, "required": ["v"]}
ROUND_AND_ROUND = "The revenue is 12.4, " * 60


class Reading(BaseModel):
    """The chart's values."""

    year: int
    revenue: float

    @field_validator("year")
    @classmethod
    def of_this_century(cls, year: int) -> int:
        if year < 2000:
            raise ValueError("too long ago")
        return year


def session(server: Scripted, **options: Any) -> Session:
    return Session(server.url, "sk-test", retry=Policy(base=0.001), **options)


async def test_a_misfit_is_mended_with_its_reason(server: Scripted) -> None:
    server.script = [replies.answer('{"v": "12"}'), replies.answer('{"v": 12}')]
    async with session(server) as s:
        answer = await s.ask(png(), "?", schema=SCHEMA)
    assert (answer.value, answer.mended, answer.usage.total_tokens) == ({"v": 12}, True, 220)
    first, second = (call.body["input"]["messages"] for call in server.calls)
    assert second[:1] == first
    assert second[1] == {"role": "assistant", "content": [{"text": '{"v": "12"}'}]}
    assert "'12' is not of type 'number' at $.v" in second[2]["content"][0]["text"]


async def test_mended_once_and_no_more(server: Scripted) -> None:
    server.default = lambda call: replies.answer("no")
    async with session(server) as s:
        with pytest.raises(errors.InvalidAnswer) as caught:
            await s.ask(png(), "?", schema=SCHEMA)
    assert len(server.calls) == 2
    assert caught.value.answer.usage.total_tokens == 220, "both were paid for"


async def test_where_mending_fails_the_first_answer_counts(server: Scripted) -> None:
    server.script = [replies.answer("no"), replies.refusal(400, "InvalidParameter", "too long")]
    async with session(server) as s:
        with pytest.raises(errors.InvalidAnswer, match="no JSON") as caught:
            await s.ask(png(), "?", schema=SCHEMA)
    assert caught.value.answer.text == "no"


async def test_what_was_cut_off_would_be_cut_off_again(server: Scripted) -> None:
    server.script = [replies.answer('{"v": 1', finish="length")]
    async with session(server) as s:
        with pytest.raises(errors.InvalidAnswer, match="cut off"):
            await s.ask(png(), "?", schema=SCHEMA)
    assert len(server.calls) == 1


async def test_circles_get_a_second_try(server: Scripted) -> None:
    server.script = [replies.answer(ROUND_AND_ROUND, finish="length"), replies.answer("12.4")]
    async with session(server) as s:
        answer = await s.ask(png(), "?")
    assert (answer.text, answer.mended, answer.flaw) == ("12.4", True, "")
    assert [call.body["parameters"] for call in server.calls] == [{}, {"repetition_penalty": 1.1}]


async def test_circles_twice_are_told(server: Scripted) -> None:
    server.default = lambda call: replies.answer(ROUND_AND_ROUND, finish="length")
    async with session(server) as s:
        assert (await s.ask(png(), "?")).flaw == "repeats"
    assert len(server.calls) == 2


@pytest.mark.parametrize(
    ("text", "circles"),
    [
        (ROUND_AND_ROUND, True),
        ("年营收，" * 120, True),
        ("0, " * 200, True),
        ("| year | revenue |\n" + "-" * 900, False),
        ("short short short", False),
        (", ".join(f"{{'year': {year}, 'revenue': {year * 3}}}" for year in range(1990, 2040)), False),
    ],
)
def test_circles(text: str, circles: bool) -> None:
    assert repeats(text) is circles


async def test_a_pydantic_model_in_an_instance_out(server: Scripted) -> None:
    server.script = [replies.answer('{"year": 2024, "revenue": 15.1}')]
    async with session(server) as s:
        answer = await s.ask(png(), "?", schema=Reading)
    assert answer.value == Reading(year=2024, revenue=15.1)
    sent = server.calls[0].body["parameters"]["response_format"]["json_schema"]
    assert (sent["name"], sent["schema"]) == ("Reading", Reading.model_json_schema())


async def test_the_models_own_validators_count(server: Scripted) -> None:
    server.default = lambda call: replies.answer('{"year": 1024, "revenue": 15.1}')
    async with session(server) as s:
        with pytest.raises(errors.InvalidAnswer, match="does not fit Reading: Value error, too long ago at year"):
            await s.ask(png(), "?", schema=Reading)
    assert "too long ago" in server.calls[1].body["input"]["messages"][2]["content"][0]["text"]


async def test_neither_schema_nor_model(server: Scripted) -> None:
    async with session(server) as s:
        with pytest.raises(errors.ConfigurationError, match="pydantic model"):
            await s.ask(png(), "?", schema=int)


async def test_a_server_without_guided_decoding_is_told_in_words(server: Scripted) -> None:
    refused = replies.refusal(400, "InvalidParameter", "'response_format.type' json_schema is not supported")
    server.script = [refused]
    server.default = lambda call: replies.answer('{"v": 1}')
    async with session(server) as s:
        for _ in range(2):
            assert (await s.ask(png(), "What?", schema=SCHEMA)).value == {"v": 1}
    first, *others = server.calls
    assert "response_format" in first.body["parameters"]
    assert len(others) == 2, "and is not asked for it again"
    for call in others:
        assert "response_format" not in call.body["parameters"]
        assert call.content[-1]["text"].startswith("What?\n\nAnswer with JSON alone")


async def test_a_path_may_be_text(server: Scripted, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(5))
    async with session(server) as s:
        await s.ask([str(tmp_path / "a.png")], "?")
    assert server.calls[0].image == png(5)


def noise(size: int) -> bytes:
    """A PNG that is about so many bytes long."""
    return png()[:-12] + os.urandom(size) + png()[-12:]


@pytest.mark.parametrize(("size", "uploaded"), [(2_000, False), (8_000, False), (10_000, True), (200_000, True)])
async def test_whichever_is_smaller_on_the_wire(server: Scripted, size: int, uploaded: bool) -> None:
    image = noise(size)
    server.storing()
    async with session(server) as s:
        assert (await s.ask(image, "?")).text
        sent = server.received
    [call] = server.calls
    assert call.content[0]["image"].startswith("oss://") is uploaded
    assert server.stored == ({call.content[0]["image"]: image} if uploaded else {})
    assert ("x-dashscope-ossresourceresolve" in call.headers) is uploaded
    if uploaded:
        assert sent < len(data_uri(image))


async def test_one_certificate_and_no_image_twice(server: Scripted) -> None:
    server.storing()
    async with session(server) as s:
        for image in (noise(20_000), noise(21_000)):
            for _ in range(2):
                await s.ask(image, "?")
    assert (server.certificates, len(server.stored), len(server.calls)) == (1, 2, 4)


async def test_the_store_never_sees_the_key(server: Scripted) -> None:
    server.storing()
    async with session(server) as s:
        await s.ask(noise(20_000), "?")
    assert all("authorization" not in headers for headers in server.uploads)
    assert server.uploads


async def test_a_server_without_a_store_gets_it_inline(server: Scripted) -> None:
    async with session(server) as s:
        for number in range(2):
            await s.ask(noise(20_000 + number), "?")
    assert all(call.content[0]["image"].startswith("data:image/png") for call in server.calls)


async def test_a_store_that_fails_is_left_alone_for_a_while(server: Scripted) -> None:
    server.storing(status=500)
    async with session(server) as s:
        await asyncio.gather(*(s.ask(noise(20_000 + number), "?") for number in range(8)))
    assert server.certificates == 1
    assert len(server.calls) == 8


async def test_upload_and_nothing_else(server: Scripted) -> None:
    async with session(server, delivery="upload") as s:
        with pytest.raises(errors.NotFound):
            await s.ask(png(), "?", retry=ONCE)
    assert server.calls == []


async def test_inline_and_nothing_else(server: Scripted) -> None:
    server.storing()
    async with session(server, delivery="inline") as s:
        await s.ask(noise(200_000), "?")
    assert server.stored == {}
