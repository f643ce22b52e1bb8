from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from client.errors import ConfigurationError
from client.models import Done, Failed, Skipped, Usage
from client.scoring import Expected, Score, is_right, same
from client.structured import json_in


def done(file: str, answer: str) -> Done:
    return Done(file, "k", answer, None, "stop", Usage(), "r", "m", 0.1, 1)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1}', {"a": 1}),
        ('  \n{"a": 1}\n', {"a": 1}),
        ('```json\n{"a": 1}\n```', {"a": 1}),
        ("Here it is:\n```\n[1, 2]\n```\nDone.", [1, 2]),
        ('The values are {"a": [1, {"b": 2}]} as read.', {"a": [1, {"b": 2}]}),
        ("3.5", 3.5),
    ],
)
def test_json_in(text: str, value: Any) -> None:
    assert json_in(text) == value


@pytest.mark.parametrize("text", [r'{"a": "\ud83d"}', r'so: ["\uD83D"]'])
def test_half_a_character_is_replaced(text: str) -> None:
    assert "\ufffd" in json.dumps(json_in(text), ensure_ascii=False).encode().decode()
    assert json_in(r'{"a": "\ud83d\ude00"}') == {"a": "😀"}


@pytest.mark.parametrize(
    "text", ['{"charts": [{"v": 1}, {"v"', '[{"v": 1}, {"', 'So: {"a": [1, 2], "b', '{"a": {"v": 1},']
)
def test_a_part_of_a_broken_off_answer_is_no_answer(text: str) -> None:
    with pytest.raises(ValueError, match="no JSON"):
        json_in(text)


@pytest.mark.parametrize("text", ["", "no", "{", '{"a": 1', '{"a": NaN}', '{"a": 1e999}', "{a: 1}"])
def test_no_json(text: str) -> None:
    with pytest.raises(ValueError, match="no JSON"):
        json_in(text)


@pytest.mark.parametrize(
    ("left", "right", "equal"),
    [
        (1, 1.0, True),
        (12.30, 12.3, True),
        ({"a": 1, "b": 2}, {"b": 2.0, "a": 1}, True),
        ([1, 2], [2, 1], False),
        ([1], [1, 2], False),
        ("1", 1, False),
        (True, 1, False),
        (0, False, False),
        (True, True, True),
        (None, None, True),
        (None, 0, False),
        ({"a": 1}, {"a": 1, "b": None}, False),
        ({}, [], False),
        (-1.2, 1.2, False),
    ],
)
def test_same(left: Any, right: Any, equal: bool) -> None:
    assert same(left, right) is equal
    assert same(right, left) is equal


def test_words_are_not_right() -> None:
    assert not is_right("I cannot read it", {"a": 1})


def test_words_where_words_are_expected() -> None:
    assert is_right(" 上升\n", "上升")
    assert is_right('"上升"', "上升")
    assert not is_right("下降", "上升")


def test_the_nearest_name_matches() -> None:
    expected = Expected({"chart.png": 1, "a/chart.png": 2})
    assert expected.get("charts/chart.png") == 1
    assert expected.get("x/a/chart.png") == 2
    assert expected.get("other.png", "none") == "none"


def test_verdicts() -> None:
    expected = Expected({"a.png": {"v": 1}})
    assert expected.right(done("in/a.png", '{"v": 1.0}')) is True
    assert expected.right(done("in/a.png", '{"v": 2}')) is False
    assert expected.right(Failed("in/a.png", "k", "refused")) is False
    assert expected.right(Skipped("in/a.png", "empty")) is None
    assert expected.right(done("in/b.png", "{}")) is None


def test_an_expected_null_is_known() -> None:
    assert Expected({"a.png": None}).right(done("a.png", "null")) is True


def test_share() -> None:
    assert Score(3, 4).share == 0.75
    assert Score().share == 0.0


def test_read(tmp_path: Path) -> None:
    path = tmp_path / "expected.jsonl"
    path.write_text(
        '{"file": "图1.png", "expected": {"年": [2021]}}\n\n{"file": "b.png", "expected": "\u2028"}\n', "utf-8"
    )
    expected = Expected.read(path)
    assert (expected.get("图1.png"), expected.get("b.png")) == ({"年": [2021]}, "\u2028")


def test_read_what_a_windows_editor_wrote(tmp_path: Path) -> None:
    path = tmp_path / "expected.jsonl"
    path.write_text('{"file": "a.png", "expected": 1}\r\n', "utf-8-sig")
    assert Expected.read(path).get("a.png") == 1


@pytest.mark.parametrize("line", ["nonsense", "[]", "3", '{"file": "a.png"}'])
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "expected.jsonl"
    path.write_text(f'{{"file": "a.png", "expected": 1}}\n{line}\n')
    with pytest.raises(ConfigurationError, match="line 2"):
        Expected.read(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"gone\.jsonl"):
        Expected.read(tmp_path / "gone.jsonl")
