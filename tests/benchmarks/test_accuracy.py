from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks.accuracy.__main__ import main
from benchmarks.accuracy.datasets import questions
from benchmarks.accuracy.metrics import anls, distance, fields, relaxed, scored
from benchmarks.accuracy.paired import paired
from benchmarks.record import Writer
from benchmarks.workload import Ask, BadWorkload, Workload
from tests.benchmarks.made import record

PICTURE = next(Workload("chart", 64, 64).asks()).images[0].data


@pytest.mark.parametrize(
    ("answer", "expected", "score"),
    [
        ("14", "14", 1),
        ("14.7", "14", 1),
        ("14.71", "14", 0),
        ("-14", "14", 0),
        ("1,234", "1234", 1),
        ("50%", "0.5", 1),
        ("50%", "50", 0),
        ("0", "0", 1),
        ("0.001", "0", 0),
        ("Yes", "yes", 1),
        ("yes.", "Yes", 1),
        ("Answer: Blue", "blue", 1),
        ("Light Blue", "Blue", 0),
        ("fourteen", "14", 0),
        ("", "14", 0),
        ("green", ["Green", "Olive"], 1),
    ],
)
def test_relaxed_accuracy(answer: str, expected: Any, score: float) -> None:
    assert relaxed(answer, expected) == score


@pytest.mark.parametrize(
    ("answer", "accepted", "score"),
    [
        ("hello", ["hello"], 1.0),
        ("HELLO ", ["hello"], 1.0),
        ("hallo", ["hello"], 0.8),
        ("hxxxo", ["hello"], 0.0),
        ("hello", ["goodbye", "hella"], 0.8),
        ("", ["hello"], 0.0),
    ],
)
def test_anls(answer: str, accepted: list[str], score: float) -> None:
    assert anls(answer, accepted) == pytest.approx(score)


@pytest.mark.parametrize(("left", "right", "edits"), [("kitten", "sitting", 3), ("", "abc", 3), ("ab", "ab", 0)])
def test_distance(left: str, right: str, edits: int) -> None:
    assert distance(left, right) == distance(right, left) == edits


def test_fields_are_the_share_of_leaves() -> None:
    assert fields('{"unit": "x", "values": [1, 2]}', {"unit": "x", "values": [1, 3]}) == pytest.approx(2 / 3)
    assert fields("no JSON", {"unit": "x"}) == 0.0


def test_a_question_without_a_known_answer_has_no_score() -> None:
    assert scored(Ask(()), "anything") is None
    assert scored(Ask((), expected="5", metric="relaxed"), "5.1") == 1.0


def test_chartqa_as_it_is_published(tmp_path: Path) -> None:
    folder = tmp_path / "test"
    (folder / "png").mkdir(parents=True)
    (folder / "png" / "a.png").write_bytes(PICTURE)
    for half in ("human", "augmented"):
        entry = {"imgname": "a.png", "query": f"How many, {half}?", "label": "14"}
        (folder / f"test_{half}.json").write_text(json.dumps([entry]))

    asks = questions("chartqa", tmp_path)

    assert [ask.metric for ask in asks] == ["relaxed", "relaxed"]
    assert asks[0].prompt.startswith("How many, augmented?")
    assert scored(asks[0], "14.5") == 1.0


def test_docvqa_as_it_is_published(tmp_path: Path) -> None:
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "a.png").write_bytes(PICTURE)
    entry = {"questionId": 7, "question": "Who?", "image": "documents/a.png", "answers": ["Ann", "Ann Lee"]}
    (tmp_path / "val_v1.0_withQT.json").write_text(json.dumps({"data": [entry]}))

    (ask,) = questions("docvqa", tmp_path)

    assert (ask.name, ask.metric, ask.expected) == ("docvqa-7", "anls", ["Ann", "Ann Lee"])


def test_generated_charts_and_a_seeded_sample(tmp_path: Path) -> None:
    for at in range(9):
        (tmp_path / f"{at}.png").write_bytes(PICTURE)
    lines = [json.dumps({"file": f"{at}.png", "expected": {"values": [at]}}) for at in range(9)]
    (tmp_path / "expected.jsonl").write_text("\n".join(lines))

    sample = [ask.name for ask in questions("charts", tmp_path, most=3, seed=4)]

    assert len(sample) == 3
    assert sample == [ask.name for ask in questions("charts", tmp_path, most=3, seed=4)]


@pytest.mark.parametrize("layout", ["chartqa", "docvqa", "charts"])
def test_a_folder_of_something_else_is_named(tmp_path: Path, layout: str) -> None:
    with pytest.raises(BadWorkload, match=str(tmp_path)):
        questions(layout, tmp_path)


def test_the_same_answers_pass() -> None:
    scores = {str(at): float(at % 2) for at in range(100)}

    found = paired(scores, scores)

    assert (found.ratio.value, found.ratio.low, found.passes, found.certain) == (1.0, 1.0, True, True)


def test_a_tenth_worse_fails_for_certain() -> None:
    baseline = {str(at): 1.0 for at in range(1000)}
    candidate = {name: float(int(name) % 10 > 0) for name in baseline}

    found = paired(baseline, candidate)

    assert (found.worse, found.better) == (100, 0)
    assert found.ratio.value == pytest.approx(0.9)
    assert not found.passes
    assert found.certain


def test_few_questions_are_not_certain() -> None:
    baseline = {str(at): 1.0 for at in range(20)}

    found = paired(baseline, baseline | {"0": 0.0})

    assert not found.passes
    assert not found.certain


def _records(path: Path, scores: list[float]) -> None:
    writer = Writer(path, {"questions": [f"q{at}" for at in range(len(scores))]})
    for at, score in enumerate(scores):
        writer.write(record(at, at, 0.1, score=score))
    writer.close()


@pytest.mark.parametrize(("scores", "code"), [([1.0] * 50, 0), ([1.0] * 49 + [0.0], 1)])
def test_the_gate_is_an_exit_code(tmp_path: Path, scores: list[float], code: int) -> None:
    _records(tmp_path / "a.jsonl", [1.0] * 50)
    _records(tmp_path / "b.jsonl", scores)

    result = CliRunner().invoke(main, ["gate", str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")])

    assert result.exit_code == code, result.output
    assert ("passes" if code == 0 else "FAILS") in result.output


def test_the_gate_refuses_other_records(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "a.jsonl", {})
    writer.close()

    result = CliRunner().invoke(main, ["gate", str(tmp_path / "a.jsonl"), str(tmp_path / "a.jsonl")])

    assert result.exit_code == 1
    assert "no runs of `accuracy run`" in result.output


@pytest.mark.ring3
def test_questions_without_an_answer_say_why(tmp_path: Path, unused_tcp_port: int) -> None:
    (tmp_path / "a.png").write_bytes(PICTURE)
    (tmp_path / "expected.jsonl").write_text(json.dumps({"file": "a.png", "expected": {"values": [1]}}))
    where = ["--url", f"http://127.0.0.1:{unused_tcp_port}", "--out", str(tmp_path / "out.jsonl")]

    result = CliRunner().invoke(main, ["run", "charts", str(tmp_path), *where])

    assert result.exit_code == 1
    assert "1 not answered, which count as wrong: ConnectionRefusedError 1" in " ".join(result.output.split())
