from __future__ import annotations

import csv
import json
import sqlite3
from pathlib import Path

import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from click.testing import CliRunner, Result

from client.cli import main
from tests.client.finance.conftest import READING, WORDS
from tests.client.server import Call, Reply, Scripted, answer, refusal

pytestmark = pytest.mark.timeout(120)  # each document starts a process, which imports for seconds on a busy machine


def report(model: Scripted, *arguments: str | Path) -> Result:
    server = ["--base-url", model.url, "--api-key", "sk-test"]
    return CliRunner().invoke(main, ["report", *map(str, arguments), *server])


def keys(model: Scripted) -> list[str]:
    return [call.headers["idempotency-key"] for call in model.calls]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_a_document_becomes_a_table_an_alert_and_a_page(model: Scripted, annual: Path, tmp_path: Path) -> None:
    """And a second run asks nothing, but applies rules that have changed."""
    out = tmp_path / "out"
    result = report(model, annual, "--out", out, "--show")
    assert result.exit_code == 0, result.output
    assert "1 of 1 documents, 1 charts: 1 read, 0 not" in result.output
    assert len(model.calls) == 2
    assert model.calls[0].body["parameters"]["response_format"]["json_schema"]["schema"]["required"]

    table = rows(out / "series.csv")
    assert [(row["year"], row["value"], row["growth_printed"]) for row in table] == [
        ("2021", "82.3", "25.1"), ("2022", "96.1", "16.8"), ("2023", "110.4", "14.9"), ("2024", "121.5", "10.1"),
    ]  # fmt: skip
    first = table[0]
    assert (first["measure"], first["amount"], first["currency"], first["page"]) == (
        "Revenue",
        "8230000000.0",
        "CNY",
        "2",
    )
    assert (first["prompt_version"], len(first["document_digest"])) == ("1", 64)
    assert pq.read_table(out / "series.parquet").column("year").to_pylist() == [2021, 2022, 2023, 2024]
    page = (out / "report.html").read_text("utf-8")
    assert "data:image/webp;base64," in page
    assert "the chart&#x27;s unit is 亿元, its caption says CNY million" in page
    assert WORDS in page
    assert rows(out / "alerts.csv") == []

    rules = tmp_path / "rules.toml"
    rules.write_text(
        '[[rule]]\nname="slow"\nlabel="慢"\nmessage="slow"\nmetric="growth"\ntest="change"\nbelow=-1.0\nrunning=2\n'
    )
    again = report(model, annual, "--out", out, "--rules", rules)
    assert again.exit_code == 0, again.output
    assert "1 read (1 in an earlier run)" in again.output
    assert "慢" in again.output
    assert len(model.calls) == 2
    (alert,) = rows(out / "alerts.csv")
    assert (alert["label"], alert["certain"]) == ("慢", "False")
    with sqlite3.connect(out / "report.db") as database:
        assert database.execute("SELECT count(*), max(amount) FROM series").fetchone() == (4, 12_150_000_000.0)
        assert database.execute("SELECT kind FROM disagreements").fetchall() == [("unit",)]
    database.close()


def test_bad_documents_do_not_lose_the_others(model: Scripted, annual: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.7 and then nothing")
    (tmp_path / "empty.pdf").write_bytes(b"")
    (tmp_path / "copy.pdf").write_bytes(annual.read_bytes())
    result = report(model, tmp_path, "--out", tmp_path / "out", "--no-words")
    assert result.exit_code == 1
    assert f"not read: {tmp_path / 'broken.pdf'}: it is damaged" in result.output
    assert f"not read: {tmp_path / 'empty.pdf'}: it is empty" in result.output
    assert "2 of 4 documents, 1 charts: 1 read" in result.output
    assert len(model.calls) == 1  # the copy is the same document, and --no-words asks once a chart
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "broken.pdf" in page


def test_a_chart_that_was_not_read_is_asked_again(model: Scripted, annual: Path, tmp_path: Path) -> None:
    told = model.default
    model.default = lambda call: refusal(400, "DataInspectionFailed", "Inappropriate content.")
    result = report(model, annual, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "page 2: Inappropriate content." in result.output
    assert "Inappropriate content." in (tmp_path / "out" / "report.html").read_text("utf-8")
    model.default = told
    assert report(model, annual, "--out", tmp_path / "out").exit_code == 0
    assert len(rows(tmp_path / "out" / "series.csv")) == 4
    refused, figures, words = keys(model)
    assert refused == figures != words, "a crash may have lost the answer, not the question"


def test_an_answer_that_is_no_chart(model: Scripted, annual: Path, tmp_path: Path) -> None:
    def short(call: Call) -> Reply:
        return answer(json.dumps(READING | {"values": [1.0]}))

    model.default = short
    result = report(model, annual, "--out", tmp_path / "out", "--no-words")
    assert result.exit_code == 1
    assert "4 years and 1 values" in result.output
    report(model, annual, "--out", tmp_path / "out", "--no-words")
    assert len(set(keys(model))) == 4, "two questions and their repairs: a server would repeat the answer to the same"


def test_a_wrong_key_stops_at_once(model: Scripted, annual: Path, tmp_path: Path) -> None:
    model.default = lambda call: refusal(401, "InvalidApiKey", "Invalid API-key provided.")
    result = report(model, annual, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "Invalid API-key provided" in result.output
    assert len(model.calls) == 1


def test_a_database_that_is_lost_on_the_way(model: Scripted, annual: Path, tmp_path: Path) -> None:
    """One line, not a traceback, whatever was in flight."""
    out = tmp_path / "out"

    def breaks(call: Call) -> Reply:
        with sqlite3.connect(out / "report.db") as database:
            database.execute("DROP TABLE points")
        database.close()
        return answer(json.dumps(READING))

    model.default = breaks
    result = report(model, annual, "--out", out, "--no-words")
    assert result.exit_code == 2
    assert "the database cannot be" in result.output
    assert "Traceback" not in result.output
    assert isinstance(result.exception, SystemExit)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["gone.pdf"], "gone.pdf is not there"),
        (["."], "there is no PDF in the folders named"),
        (["{annual}", "--database", "nonsense"], "the database cannot be used"),
        (["{annual}", "--database", "sqlite:////no/such/folder/r.db"], "cannot be used"),
        (["{annual}", "--rules", "gone.toml"], "gone.toml cannot be read"),
    ],
)
def test_mistakes(
    model: Scripted, annual: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], problem: str
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    result = report(model, *(argument.format(annual=annual) for argument in arguments), "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert problem in result.output
    assert not model.calls


def test_a_chart_is_masked_before_it_is_sent(model: Scripted, annual: Path, tmp_path: Path) -> None:
    """And is another question than the same chart as it was."""
    out = tmp_path / "out"
    assert report(model, annual, "--out", out, "--no-words").exit_code == 0
    result = report(model, annual, "--out", out, "--no-words", "--redact")
    assert result.exit_code == 0, result.output
    plain, masked = model.calls
    assert plain.content[-1] == masked.content[-1]
    assert [json.loads(line) for line in (out / "redactions.jsonl").read_text("utf-8").splitlines()]
