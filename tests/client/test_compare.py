from __future__ import annotations

import base64
import gc
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from client.compare import Comparison, Reply, Side, compare, difference, leaves
from client.compare_command import compare_command
from client.compare_page import as_page
from client.errors import Unauthorized
from client.models import Answer, Job, Usage
from client.prices import Price
from client.session import Session
from tests.client.server import Scripted, answer, refusal

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGP4z8DwHwAFAAH/iZk9HQAAAABJRU5ErkJggg=="
)
JOB = Job("Read it.", "qwen3-vl-30b-a3b-instruct", parameters={"temperature": 0})


@pytest.fixture
def two(ring3: None) -> Iterator[tuple[Scripted, Scripted]]:
    with Scripted().running() as first, Scripted().running() as second:
        yield first, second


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(PNG + bytes([number]))
    return folder


@pytest.fixture
async def sides(two: tuple[Scripted, Scripted]) -> AsyncIterator[tuple[Side, Side]]:
    async with Session(two[0].url, "sk-1") as first, Session(two[1].url, "sk-2") as second:
        yield Side("home", first, JOB.model, Price(1.0, 2.0)), Side("cloud", second, JOB.model)


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def said(text: str) -> Reply:
    return Reply(text, Usage(100, 10, 110, 80), 1.0)


def test_the_same_words_are_exact() -> None:
    found = difference("a.png", said("Twelve."), said("Twelve. "))

    assert (found.exact, found.fields, found.numbers) == (True, None, None)


def test_json_is_compared_by_value() -> None:
    found = difference("a.png", said('{"a": 1, "b": [2.0]}'), said('```json\n{"b": [2], "a": 1}\n```'))

    assert (found.exact, found.fields, found.numbers) == (True, 1.0, 1.0)


def test_fields_and_numbers_count_what_either_has() -> None:
    found = difference("a.png", said('{"unit": "x", "values": [1, 2]}'), said('{"unit": "y", "values": [1, 2, 3]}'))

    assert not found.exact
    assert found.fields == pytest.approx(2 / 4)
    assert found.numbers == pytest.approx(2 / 3)


def test_numbers_of_sentences_are_compared_in_their_order() -> None:
    found = difference("a.png", said("Revenue grew from 1,200.5 to 1300."), said("It went from 1200.5 to 1400"))

    assert found.numbers == 0.5
    assert 0 < found.similarity < 1


def test_a_failure_is_like_nothing() -> None:
    found = difference("a.png", Reply(error="gone"), said("5"))

    assert (found.answered, found.exact, found.similarity) == (False, False, 0.0)


def test_leaves_have_their_places() -> None:
    assert list(leaves({"a": [1, {"b": "x"}], "c": None})) == [(".a[0]", 1), (".a[1].b", "x")]


async def test_both_servers_get_every_image(
    two: tuple[Scripted, Scripted], sides: tuple[Side, Side], images: Path
) -> None:
    found = [each async for each in compare(files(images), JOB, *sides, concurrency=2)]

    assert len(found) == 3
    assert all(each.exact for each in found)
    assert {call.digest for call in two[0].calls} == {call.digest for call in two[1].calls}
    assert all(call.body["parameters"]["temperature"] == 0 for server in two for call in server.calls)


async def test_costs_are_of_a_thousand_images(sides: tuple[Side, Side], images: Path) -> None:
    found = [each async for each in compare(files(images), JOB, *sides)]
    comparison = Comparison.of(found, *sides)

    assert comparison.first.cost_per_1000 == pytest.approx((100 * 1.0 + 10 * 2.0) / 1e6 * 1000)
    assert comparison.second.cost_per_1000 is None
    assert comparison.share("exact") == 1.0


async def test_what_one_refuses_is_a_failure_of_that_image(
    two: tuple[Scripted, Scripted], sides: tuple[Side, Side], images: Path
) -> None:
    two[1].script.append(refusal(400, "DataInspectionFailed", "not this <one>"))
    found = [each async for each in compare(files(images), JOB, *sides, concurrency=1)]
    comparison = Comparison.of(found, *sides)

    assert (comparison.first.failed, comparison.second.failed) == (0, 1)
    page = as_page(comparison, "What <is> it?")
    assert "not this &lt;one&gt;" in page
    assert "What &lt;is&gt; it?" in page
    assert "https://" not in page
    assert page.count('src="data:image/webp;base64,') == len(found), "each answer beside its image"


def command(two: tuple[Scripted, Scripted], images: Path, *more: str) -> Any:
    first, second = two
    options = ["--prompt", "Read it.", "--base-url", first.url, "--api-key", "sk-1", "--with", second.url]
    return CliRunner().invoke(compare_command, [str(images), *options, *more])


def test_the_command_prints_a_table_and_writes_both_files(
    two: tuple[Scripted, Scripted], images: Path, tmp_path: Path
) -> None:
    page, out = tmp_path / "c.html", tmp_path / "c.jsonl"

    result = command(two, images, "--page", str(page), "--out", str(out), "--names", "home,cloud", "--min-same", "1")

    assert result.exit_code == 0, result.output
    assert "answers that are the same" in result.output
    assert page.read_text().count("<small>cloud, ") == 3  # each answer says whose it is
    assert len([json.loads(line) for line in out.read_text().splitlines()]) == 3


def test_answers_that_differ_fail_the_gate(two: tuple[Scripted, Scripted], images: Path) -> None:
    two[1].default = lambda call: answer("something else")

    result = command(two, images, "--min-same", "0.5")

    assert result.exit_code == 1
    assert "fewer answers are the same than --min-same 0.5 asks for" in result.output


@pytest.mark.parametrize(
    ("more", "words"), [(["--price", "cheap"], "is no price"), (["--with", "ftp://x"], "is not a URL")]
)
def test_a_mistake_is_one_line(two: tuple[Scripted, Scripted], images: Path, more: list[str], words: str) -> None:
    result = command(two, images, *more)

    assert result.exit_code == 1
    assert words in result.output


class Refused(Session):
    """One whose questions all end at once and together, as those do that wait for the same refusal."""

    async def ask(self, *images: Any, **options: Any) -> Answer:
        raise Unauthorized("Invalid API-key provided.", status=401)


async def test_of_several_refusals_one_is_told(images: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with Refused("http://127.0.0.1:1/api/v1", "sk-1") as session:
        side = Side("home", session, JOB.model)
        with pytest.raises(Unauthorized):
            await anext(compare(files(images), JOB, side, side))
    gc.collect()  # asyncio logs exceptions that nobody has looked at when their tasks go

    assert caplog.text == ""


def test_a_wrong_key_ends_it_at_once(two: tuple[Scripted, Scripted], images: Path) -> None:
    two[1].default = lambda call: refusal(401, "InvalidApiKey", "Invalid API-key provided.")

    result = command(two, images)

    assert result.exit_code == 1
    assert "Invalid API-key" in result.output
