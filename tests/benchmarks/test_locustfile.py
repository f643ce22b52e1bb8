"""The locustfile as one starts it: in a process of its own, for Locust replaces the standard library's sockets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.processes import mock_engine
from benchmarks.record import read
from benchmarks.shapes import BadShape, users

ROOT = Path(__file__).resolve().parents[2]
LOCUST = [sys.executable, "-m", "locust", "-f", str(ROOT / "benchmarks" / "locustfile.py")]


@pytest.mark.ring3
def test_every_user_is_there(tmp_path: Path) -> None:
    done = subprocess.run([*LOCUST, "--list"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)

    named = set(done.stdout.split())
    assert {"NativeSync", "NativeStream", "CompatibleStream", "MultiImage"} <= named
    assert {"RepeatedImage", "UploadedImage", "AsyncTask", "Mixed"} <= named


@pytest.mark.ring3
@pytest.mark.timeout(90)
async def test_a_short_load_without_a_page(tmp_path: Path) -> None:
    import asyncio

    async with mock_engine("--ttft", "0.02", "--gap", "0.01", "--pieces", "5") as (url, _):
        options = [
            "--headless",
            "-u",
            "2",
            "-r",
            "2",
            "-t",
            "6s",
            "--host",
            url,
            "--image-size",
            "64",
            "--only-summary",
        ]
        command = [*LOCUST, *options, "--records", "r.jsonl", "--json-file", "stats", "CompatibleStream"]
        process = await asyncio.create_subprocess_exec(*command, cwd=tmp_path, stderr=subprocess.PIPE)
        _, errors = await process.communicate()

    assert process.returncode == 0, errors.decode()
    run, records = read(tmp_path / "r.jsonl")
    assert records
    assert all(record.ok and record.output_tokens == 5 and len(record.gaps) == 4 for record in records)
    assert run["url"] == url
    names = {row["name"] for row in json.loads((tmp_path / "stats.json").read_text())}
    assert names == {"compatible stream", "compatible stream first token"}


@pytest.mark.parametrize(
    ("words", "now", "expected"),
    [
        ("step:2,4,8:90", 0, 2),
        ("step:2,4,8:90", 31, 4),
        ("step:2,4,8:90", 90, None),
        ("ramp:1-11:100", 50, 6),
        ("spike:4,40:90", 29, 4),
        ("spike:4,40:90", 31, 40),
        ("spike:4,40:90", 61, 4),
    ],
)
def test_shapes_are_users_over_time(words: str, now: float, expected: int | None) -> None:
    assert users(words, now) == expected


@pytest.mark.parametrize("words", ["ramp", "wave:1,2:3", "step:a:3", "ramp:1,2,3:9"])
def test_a_shape_that_is_none_is_named(words: str) -> None:
    with pytest.raises(BadShape, match="is none of"):
        users(words, 0)
