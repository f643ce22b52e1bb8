from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.record import BadRecords, Writer, read
from tests.benchmarks.made import evenly


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    records = evenly([0.1, 0.2], first=5, gaps=[1, 2], digest="ab", score=0.5)
    writer = Writer(tmp_path / "r.jsonl", {"seed": 1})
    for each in records:
        writer.write(each)
    writer.tell({"loop_delay_p99_ms": 0.5})
    writer.close()

    assert read(tmp_path / "r.jsonl") == ({"seed": 1, "loop_delay_p99_ms": 0.5}, records)


def test_the_last_line_of_a_killed_run_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    writer = Writer(path, {})
    for each in evenly([0.1, 0.2]):
        writer.write(each)
    writer.close()
    path.write_text(path.read_text()[:-20])

    assert len(read(path)[1]) == 1


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('{"run": {}}\n{"number": 1}\n')

    with pytest.raises(BadRecords, match="line 2"):
        read(path)


@pytest.mark.parametrize("text", ["", "no json\n", '{"file": "x"}\n', "[1]\n"])
def test_something_else_is_no_file_of_records(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(text)

    with pytest.raises(BadRecords, match="does not begin"):
        read(path)
