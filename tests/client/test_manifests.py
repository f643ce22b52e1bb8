from __future__ import annotations

import json
from pathlib import Path

import pytest

from client.errors import ConfigurationError
from client.manifests import filled, rows
from client.models import Skipped
from client.questions import Item, Question, load
from client.sources import questions
from tests.client.conftest import png


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in (1, 2, 3):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    return tmp_path


def written(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_text(text, encoding=encoding)
    return path


def test_a_csv(folder: Path) -> None:
    manifest = written(folder / "m.csv", "image,company\n1.png,百度\nhttps://example.com/x.png,Acme\n")
    assert list(rows(manifest, "Revenue of {company}?")) == [
        Question(f"{manifest}#2", (folder / "1.png",), "Revenue of 百度?"),
        Question(f"{manifest}#3", ("https://example.com/x.png",), "Revenue of Acme?"),
    ]


def test_a_jsonl_with_ids_lists_and_prompts(folder: Path) -> None:
    lines = [
        {"id": "a-1", "images": ["1.png", "2.png"], "prompt": "Compare."},
        {"image": "3.png", "year": 2024},
    ]
    manifest = written(folder / "m.jsonl", "\n".join(map(json.dumps, lines)))
    assert list(rows(manifest, "Read {year}.")) == [
        Question("a-1", (folder / "1.png", folder / "2.png"), "Compare."),
        Question(f"{manifest}#2", (folder / "3.png",), "Read 2024."),
    ]


def test_several_images_in_a_cell(folder: Path) -> None:
    manifest = written(folder / "m.csv", "images\n1.png | 2.png\n")
    [question] = rows(manifest, "?")
    item = load(question)
    assert isinstance(item, Item)
    assert item.images == (png(1), png(2))
    assert item.names == (str(folder / "1.png"), str(folder / "2.png"))


def test_one_that_cannot_be_read_is_named(folder: Path) -> None:
    manifest = written(folder / "m.csv", "images\n1.png|gone.png\n")
    [question] = rows(manifest, "?")
    skipped = load(question)
    assert isinstance(skipped, Skipped)
    assert skipped.reason.endswith("gone.png: cannot be read: No such file or directory")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gbk"])
def test_as_spreadsheets_save_it(folder: Path, encoding: str) -> None:
    text = "image,公司\r\n1.png,贵州茅台\r\n" * 1 + "2.png,腾讯\r\n" * 5000
    manifest = written(folder / "m.csv", text, encoding)
    assert {question.prompt for question in rows(manifest, "{公司}")} == {"贵州茅台", "腾讯"}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (",Acme", "the row names no image"),
        ("1.png,a,b", "the row has 3 cells, the header 2"),
    ],
)
def test_bad_rows_of_a_csv(folder: Path, line: str, problem: str) -> None:
    manifest = written(folder / "m.csv", f"image,company\n{line}\n2.png,Good\n")
    bad, good = rows(manifest, "{company}")
    assert bad.problem.startswith(problem)
    assert (good.problem, good.prompt) == ("", "Good")
    assert load(bad) == Skipped(f"{manifest}#2", bad.problem)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"image": "1.png"', "not JSON"),
        ("[1]", "not a JSON object"),
        ('{"company": "x"}', "the row names no image"),
        ('{"image": "1.png"}', "the prompt names {company}, and the columns are image"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_bad_rows_of_a_jsonl(folder: Path, line: str, problem: str) -> None:
    manifest = written(folder / "m.jsonl", f'{line}\n\n{{"image": "2.png", "company": "Good"}}\n')
    bad, good = rows(manifest, "{company}")
    assert bad.problem.startswith(problem)
    assert good.prompt == "Good"


def test_bytes_that_are_no_text(folder: Path) -> None:
    (folder / "m.jsonl").write_bytes(b'{"image": "1.png", "prompt": "\xff"}\n{"image": "1.png", "prompt": "ok"}\n')
    bad, good = rows(folder / "m.jsonl")
    assert "not UTF-8" in bad.problem
    assert good.prompt == "ok"


@pytest.mark.parametrize("text", ["", "name,year\na,1\n"])
def test_a_csv_without_images_is_a_mistake(folder: Path, text: str) -> None:
    with pytest.raises(ConfigurationError, match="has no column images, image"):
        list(rows(written(folder / "m.csv", text), "?"))


def test_braces_that_are_no_columns() -> None:
    template = 'Answer as {{"year": ...}} or {"v": 1} for {name}'
    assert filled(template, {"name": "x"}) == 'Answer as {"year": ...} or {"v": 1} for x'


def test_read_as_it_is_needed(folder: Path) -> None:
    manifest = folder / "m.jsonl"
    manifest.write_text('{"image": "1.png"}\n' * 100_000)
    found = rows(manifest, "?")
    next(found)
    manifest.write_text("")
    assert sum(1 for _ in found) < 100_000


def test_every_kind_of_source_together(folder: Path) -> None:
    manifest = written(folder / "m.csv", "image\n3.png\n")
    found = list(questions([str(folder / "1.png"), "https://example.com/a.png", str(manifest), f"{folder}/*.png"], "?"))
    names = [question.name.removeprefix(str(folder)) for question in found]
    assert names == ["/1.png", "https://example.com/a.png", "/m.csv#2", "/2.png", "/3.png"]
