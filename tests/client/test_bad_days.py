"""Batches against bad files, bad rows and bad servers: every input ends as something."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from client.cli import main
from client.images import MAX_DATA_URI
from tests.client import server as replies
from tests.client.conftest import Folder, png
from tests.client.server import Call, Scripted


def batch(server: Scripted, *arguments: str | Path, **environment: str) -> Result:
    shared = {"DASHSCOPE_HTTP_BASE_URL": server.url, "DASHSCOPE_API_KEY": "sk-test"}
    result = CliRunner().invoke(main, ["batch", *map(str, arguments)], env=shared | environment)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def test_bad_files_are_told_one_by_one(server: Scripted, charts: Folder, out: Path) -> None:
    folder = charts(3)
    (folder / "empty.png").touch()
    (folder / "words.png").write_text("only words")
    (folder / "half.png").write_bytes(png(9, size=(40, 40))[:-50])
    (folder / "named-wrongly.gif").write_bytes(png(8))
    (folder / "copy.png").write_bytes((folder / "chart-1.png").read_bytes())
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    with (folder / "huge.png").open("wb") as huge:
        huge.write(png(7))
        huge.truncate(MAX_DATA_URI)
    os.mkfifo(folder / "pipe.png")
    result = batch(server, folder, "--prompt", "?", "--out", out)
    assert result.exit_code == 0
    reasons = {Path(line["file"]).name: line.get("reason", "") for line in lines(out) if line["state"] == "skipped"}
    expected = {
        "empty.png": "the file is empty", "words.png": "not an image", "half.png": "the PNG is cut short or damaged",
        "gone.png": "cannot be read: No such file or directory", "pipe.png": "not a regular file",
    }  # fmt: skip
    assert {name: reasons[name] for name in expected} == expected
    assert reasons["huge.png"].startswith("too large to send: 21.0 MB")
    assert Counter(line["state"] for line in lines(out)) == {"done": 5, "skipped": 6}
    assert len(server.calls) == 4, "the copy was not asked"
    assert "1 repeat an image that was asked about anyway" in result.stdout


def test_bad_rows_of_a_manifest(server: Scripted, charts: Folder, out: Path) -> None:
    folder = charts(2)
    manifest = folder / "m.csv"
    manifest.write_text("id,image,company\na,chart-1.png,X\nb,,Y\nc,chart-2.png,Z,Z\nd,gone.png,W\ne,chart-1.png,V\n")
    result = batch(server, manifest, "--prompt", "Revenue of {company}?", "--out", out)
    assert result.exit_code == 0
    assert [(line["file"], line["state"]) for line in lines(out)] == [
        ("a", "done"), ("b", "skipped"), (f"{manifest}#4", "skipped"), ("d", "skipped"), ("e", "done"),
    ]  # fmt: skip
    assert {call.content[-1]["text"] for call in server.calls} == {"Revenue of X?", "Revenue of V?"}
    assert lines(out)[0]["images"] == [str(folder / "chart-1.png")]


def test_a_prompt_per_row_and_none_on_the_line(server: Scripted, charts: Folder, out: Path) -> None:
    manifest = charts(2) / "m.jsonl"
    manifest.write_text('{"image": "chart-1.png", "prompt": "One?"}\n{"image": "chart-2.png"}\n')
    batch(server, manifest, "--out", out)
    assert [(line["state"], line.get("reason")) for line in lines(out)] == [
        ("done", None), ("skipped", "no prompt: no --prompt, no cell"),
    ]  # fmt: skip
    assert server.calls[0].content[-1]["text"] == "One?"


def test_no_question_at_all(server: Scripted, charts: Folder, out: Path) -> None:
    result = batch(server, charts(1), "--out", out)
    assert (result.exit_code, "no --prompt" in result.stderr) == (2, True)


def test_a_changed_cell_is_new_work(server: Scripted, charts: Folder, out: Path) -> None:
    manifest = charts(2) / "m.csv"
    for company in ("X", "Y", "Y"):
        manifest.write_text(f"image,company\nchart-1.png,{company}\nchart-2.png,Z\n")
        batch(server, manifest, "--prompt", "{company}?", "--out", out)
    assert Counter(call.content[-1]["text"] for call in server.calls) == {"X?": 1, "Y?": 1, "Z?": 1}


def test_500_at_random(server: Scripted, charts: Folder, out: Path) -> None:
    oops = replies.refusal(500, "InternalError", "oops", retry_after_ms="1")

    def seldom(call: Call) -> replies.Reply:
        return oops if len(server.calls) % 7 == 3 else replies.answer("ok")

    server.default = seldom
    result = batch(server, charts(30), "--prompt", "?", "--out", out, "--concurrency", "8")
    assert result.exit_code == 0, result.output
    assert len(lines(out)) == 30


@pytest.mark.parametrize(
    "reply", [replies.half, replies.HTMLResponse('{"output": {"choices": [{"mess'), replies.HTMLResponse("")],
    ids=["half a body", "half a JSON", "nothing"],
)  # fmt: skip
def test_half_an_answer_now_and_then(server: Scripted, charts: Folder, out: Path, reply: replies.Reply) -> None:
    server.script = [reply]
    result = batch(server, charts(4), "--prompt", "?", "--out", out)
    assert (result.exit_code, len(server.calls)) == (0, 5), result.output


def test_a_dry_run_sends_and_writes_nothing(server: Scripted, charts: Folder, out: Path) -> None:
    folder = charts(5)
    (folder / "notes.txt").write_text("words")
    (folder / "copy.png").write_bytes(png(1))
    options: list[str | Path] = ["--prompt", "?", "--out", out, "--price", "0.5:2:USD"]
    first = batch(server, folder, *options, "--dry-run")
    assert (first.exit_code, server.calls, out.exists()) == (0, [], False)
    assert "7 questions: 5 to ask, 0 answered already, 1 duplicates" in first.stdout
    assert "skipped: 1 because of: not an image" in first.stdout
    assert "tokens:  about 407 in, 1,000 out" in first.stdout
    assert "time:    not known before the first answers" in first.stdout
    assert "price:   about 0.0022 USD" in first.stdout
    batch(server, folder, *options)
    before = sorted(path.name for path in out.parent.iterdir())
    (folder / "chart-6.png").write_bytes(png(6))
    again = batch(server, folder, *options, "--dry-run")
    assert "8 questions: 1 to ask, 6 answered already" in again.stdout
    assert "time:    at least 0 s" in again.stdout
    assert sorted(path.name for path in out.parent.iterdir()) == before


def test_a_dry_run_of_nothing(server: Scripted, tmp_path: Path, out: Path) -> None:
    (tmp_path / "words.txt").write_text("words")
    assert batch(server, tmp_path / "words.txt", "--prompt", "?", "--out", out, "--dry-run").exit_code == 2


def test_what_it_cost(server: Scripted, charts: Folder, out: Path) -> None:
    result = batch(server, charts(3), "--prompt", "?", "--out", out, "--price", "1000:2000")
    assert "300 tokens in, 30 out; 0.3600 CNY" in result.stdout


@pytest.mark.parametrize("price", ["1", "a:b", "1:2:EURO"])
def test_no_price(server: Scripted, charts: Folder, out: Path, price: str) -> None:
    result = batch(server, charts(1), "--prompt", "?", "--out", out, "--price", price)
    assert (result.exit_code, "is no price" in result.stderr) == (2, True)


def test_a_heartbeat_and_a_table(server: Scripted, charts: Folder, out: Path, tmp_path: Path) -> None:
    import pyarrow.parquet  # type: ignore[import-untyped]

    folder = charts(3)
    (folder / "notes.txt").write_text("words")
    beat, table = tmp_path / "beat.json", tmp_path / "out.parquet"
    result = batch(
        server, folder, "--prompt", "?", "--out", out, "--quiet", "--heartbeat", beat, "--parquet", table
    )  # fmt: skip
    assert (result.exit_code, result.output) == (0, "")
    told = json.loads(beat.read_text())
    assert (told["state"], told["done"], told["skipped"], told["in_flight"]) == ("ended", 3, 1, 0)
    rows = pyarrow.parquet.read_table(table).to_pylist()
    assert [row["state"] for row in rows] == ["done", "done", "done", "skipped"]
    assert (rows[0]["total_tokens"], rows[3]["reason"]) == (110, "not an image")


def test_quotas_are_kept(server: Scripted, charts: Folder, out: Path, tmp_path: Path) -> None:
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    result = batch(server, charts(4), "--prompt", "?", "--out", out, "--rpm", "600", **cache)
    assert result.exit_code == 0
    assert (tmp_path / "cache" / "homescope" / "limits.sqlite").exists()


def test_flaws_are_marked(server: Scripted, charts: Folder, out: Path) -> None:
    server.default = lambda call: replies.answer("and so on and", finish="length")
    result = batch(server, charts(2), "--prompt", "?", "--out", out)
    assert [line["flaw"] for line in lines(out)] == ["truncated", "truncated"]
    assert "2 answers are cut off at the token limit" in result.stdout
