from __future__ import annotations

import json
import resource
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client.errors import LedgerBusy, LedgerError
from client.ledger import Ledger
from client.models import Done, Failed, Job, Record, Skipped, Usage, from_json, to_json

JOB = Job("What is shown?")


def done(file: str, answer: str = "42", digest: str = "d") -> Done:
    return Done(file, JOB.key(digest), answer, {"v": [1.5]}, "stop", Usage(1, 2, 3, 1), "r", "m", 0.25, 1)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "results.jsonl"


@pytest.fixture
def ledger(out: Path) -> Iterator[Ledger]:
    with Ledger(out, JOB) as ledger:
        yield ledger


def lines(out: Path) -> list[Any]:
    return [json.loads(line) for line in out.read_text("utf-8").splitlines()]


def abandon(ledger: Ledger) -> None:
    """What the kernel does to a killed process: files are closed, nothing is tidied up."""
    ledger._db.close()


@pytest.mark.parametrize(
    "record",
    [
        done("图 1.png", '营收 "42"\n亿'),
        Failed("b.png", "k", "refused", "InvalidParameter", 400, "r", 3),
        Failed("b.png", "k", "no JSON", answer="words", usage=Usage(1, 1, 2)),
        Skipped("c.txt", "not an image"),
    ],
)
def test_a_record_survives_its_line(record: Record) -> None:
    assert from_json(to_json(record)) == record
    assert "\n" not in to_json(record)


def test_lines_appear_as_records_are_added(ledger: Ledger, out: Path) -> None:
    ledger.append(done("a.png"))
    assert [(line["file"], line["state"]) for line in lines(out)] == [("a.png", "done")]
    ledger.append(Skipped("b.txt", "not an image"))
    assert [line["file"] for line in lines(out)] == ["a.png", "b.txt"]


def test_the_order_at_the_end_is_that_of_the_images(out: Path) -> None:
    with Ledger(out, JOB) as ledger:
        ledger.append(done("b.png", digest="2"), position=2)
        ledger.append(done("a.png", digest="1"), position=1)
    assert [line["file"] for line in lines(out)] == ["a.png", "b.png"]


def test_only_the_latest_word_about_a_file_counts(out: Path) -> None:
    with Ledger(out, JOB) as ledger:
        ledger.append(Failed("a.png", JOB.key("d"), "throttled"))
        ledger.append(done("a.png"))
        assert list(ledger.records()) == [done("a.png")]
    assert [line["state"] for line in lines(out)] == ["done"]


def test_nothing_is_ever_changed_or_removed(ledger: Ledger) -> None:
    for record in (Failed("a.png", "k", "throttled"), done("a.png"), done("a.png")):
        ledger.append(record)
    states = ledger._db.execute("SELECT state FROM states ORDER BY id").fetchall()
    assert states == [("failed",), ("done",)], "and what is known already is not repeated"


def test_a_new_content_of_an_old_name_and_back(out: Path) -> None:
    with Ledger(out, JOB) as ledger:
        for digest in ("old", "new", "old"):
            ledger.append(done("a.png", answer=digest, digest=digest))
        assert [record.answer for record in ledger.records() if isinstance(record, Done)] == ["old"]


def test_found_by_content_whatever_the_name(ledger: Ledger) -> None:
    ledger.append(done("a.png", digest="x"))
    assert ledger.find(JOB.key("x")) == done("a.png", digest="x")
    assert ledger.find(JOB.key("y")) is None


@pytest.mark.parametrize(
    "other",
    [
        Job("Another question?"),
        Job(JOB.prompt, model="other"),
        Job(JOB.prompt, schema={"type": "object"}),
        Job(JOB.prompt, parameters={"temperature": 0}),
    ],
)
def test_another_job_is_new_work_and_the_first_is_kept(out: Path, other: Job) -> None:
    assert other.key("d") != JOB.key("d")
    with Ledger(out, JOB) as ledger:
        ledger.append(done("a.png"))
    with Ledger(out, other) as ledger:
        assert ledger.find(other.key("d")) is None
    assert lines(out) == []
    with Ledger(out, JOB):
        assert [line["file"] for line in lines(out)] == ["a.png"]


def test_what_a_crash_left_is_mended(out: Path) -> None:
    ledger = Ledger(out, JOB)
    ledger.append(done("a.png"))
    ledger.append(done("b.png", digest="2"))
    abandon(ledger)
    out.write_bytes(out.read_bytes()[:-30])
    with Ledger(out, JOB) as ledger:
        assert [line["file"] for line in lines(out)] == ["a.png", "b.png"]
        assert ledger.find(JOB.key("2")) is not None


def test_nothing_is_left_beside_but_the_ledger(out: Path) -> None:
    with Ledger(out, JOB) as ledger:
        ledger.append(done("a.png"))
    assert sorted(path.name for path in out.parent.iterdir()) == ["results.jsonl", "results.jsonl.ledger"]


def test_half_a_line_is_a_full_disk(ledger: Ledger, out: Path) -> None:
    padding = 8 * 2**20
    with out.open("ab") as file:
        file.write(b"\n" * padding)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (padding + 50, limits[1]))
    try:
        ledger.append(done("a.png"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert out.stat().st_size == padding + 50
    assert ledger.full is not None
    ledger.close()
    assert [line["file"] for line in lines(out)] == ["a.png"]


def test_a_second_run_is_refused(ledger: Ledger, out: Path) -> None:
    with pytest.raises(LedgerBusy, match="another run is writing"):
        Ledger(out, JOB)
    ledger.append(done("a.png"))


def test_a_file_of_somebody_else_is_not_overwritten(out: Path) -> None:
    out.write_text("precious\n")
    with pytest.raises(LedgerError, match="choose another --out"):
        Ledger(out, JOB)
    assert out.read_text() == "precious\n"


@pytest.mark.parametrize("content", [b"not a database, whatever its name says" * 100, b"SQLite format 3\x00"])
def test_a_ledger_that_is_none(out: Path, content: bytes) -> None:
    out.with_name("results.jsonl.ledger").write_bytes(content)
    with pytest.raises(LedgerError):
        Ledger(out, JOB)


def test_somebody_elses_database(out: Path) -> None:
    other = sqlite3.connect(out.with_name("results.jsonl.ledger"))
    other.execute("CREATE TABLE theirs (x)")
    other.close()
    with pytest.raises(LedgerError, match="not a ledger of homescope"):
        Ledger(out, JOB)


def test_a_ledger_from_the_future(out: Path) -> None:
    with Ledger(out, JOB) as ledger:
        ledger._db.execute("PRAGMA user_version = 9")
    with pytest.raises(LedgerError, match="update homescope"):
        Ledger(out, JOB)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="may you write in it"):
        Ledger(tmp_path / "nowhere" / "results.jsonl", JOB)
