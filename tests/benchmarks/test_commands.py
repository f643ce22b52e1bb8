"""The command line: a whole load against a mock engine, and what people mistype."""

from __future__ import annotations

import json
from pathlib import Path
from threading import Thread

import pytest
from click.testing import CliRunner

from benchmarks.commands import main
from benchmarks.record import Writer, read
from tests.benchmarks.made import evenly
from tests.ports import free_port


@pytest.fixture(scope="module")
def engine(ring3: None) -> str:
    """A mock engine in a thread of its own; it ends with the tests."""
    import asyncio

    from benchmarks.mock_engine import Knobs, serve

    port = free_port()
    Thread(target=lambda: asyncio.run(serve(port, Knobs(ttft=(0.01,), pieces=(4,)))), daemon=True).start()
    return f"http://127.0.0.1:{port}"


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result.exit_code, result.output


def test_a_load_leaves_records_a_report_and_a_page(engine: str, tmp_path: Path) -> None:
    records, report, page = tmp_path / "r.jsonl", tmp_path / "r.json", tmp_path / "r.html"

    _, output = invoke(
        "load", "--url", engine, "--dialect", "compatible-sse", "--arrivals", "constant:20", "--seconds", "1",
        "--size", "64x64", "--records", str(records), "--json", str(report), "--page", str(page),
    )  # fmt: skip

    run, kept = read(records)
    assert len(kept) == 20
    assert all(each.ok for each in kept)
    assert run["workload"]["width"] == 64
    assert run["versions"]["numpy"]
    assert "loop_delay_p99_ms" in run
    assert json.loads(report.read_text())["requests"] == 20
    assert page.read_text().startswith("<!doctype html>")
    assert "20 of 20 requests answered" in output


def test_a_key_stays_out_of_the_records(engine: str, tmp_path: Path) -> None:
    records = tmp_path / "r.jsonl"

    invoke("load", "--url", engine, "--dialect", "compatible", "--arrivals", "constant:5", "--seconds", "0.5",
           "--size", "64x64", "--key", "sk-canary", "--records", str(records))  # fmt: skip

    assert "canary" not in records.read_text()


def test_a_report_is_made_anew_under_another_objective(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "r.jsonl", {})
    for each in evenly([0.1] * 50):
        writer.write(each)
    writer.close()

    assert invoke("report", str(tmp_path / "r.jsonl"), "--objective", "e2e<=0.2s")[0] == 0
    assert invoke("report", str(tmp_path / "r.jsonl"), "--objective", "e2e<=0.05s")[0] == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--arrivals", "often"], "is none of constant:5"),
        (["--arrivals", "closed:x"], "closed:8"),
        (["--size", "640"], "is no size like"),
        (["--objective", "quick"], "is not of the form"),
        (["--url", "localhost"], "is no address"),
        (["--workload", "/none/such.jsonl"], "cannot be read"),
        (["--records", "/none/such/r.jsonl"], "No such file"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], words: str) -> None:
    code, output = invoke("load", "--seconds", "0.2", *arguments)

    assert code == 1
    assert words in output
    assert "Traceback" not in output
