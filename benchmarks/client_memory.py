"""Memory of `homescope batch` over manifests of 1,000 to 1,000,000 rows.

    python -m benchmarks.client_memory --out benchmarks/results/client_memory.json

Every row of the manifest is a question of its own about one of 64 images; a mock server answers at once. The resident
set of the client's process is read twenty times a second from `/proc`: its highest value, and the median of the middle
half of the run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.client_rate import mock, pictures

_IMAGES = 64
_PAGE = os.sysconf("SC_PAGE_SIZE")


def manifest(path: Path, rows: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write("id,image,company\n")
        file.writelines(f"row-{row},images/chart-{row % _IMAGES:06}.png,Company {row}\n" for row in range(rows))


def resident(process: int) -> int:
    """Bytes of the resident set; 0 once the process has ended."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def measured(url: str, folder: Path, rows: int, in_flight: int) -> dict[str, Any]:
    source, out = folder / f"rows-{rows}.csv", folder / f"out-{rows}.jsonl"
    manifest(source, rows)
    command = [
        sys.executable, "-m", "client", "batch", str(source), "--prompt", "Revenue of {company}?", "--out", str(out),
        "--concurrency", str(in_flight), "--quiet", "--base-url", url, "--api-key", "sk-benchmark",
    ]  # fmt: skip
    began, samples = time.perf_counter(), []
    process = subprocess.Popen(command)
    while process.poll() is None:
        samples.append(resident(process.pid))
        time.sleep(0.05)
    seconds = time.perf_counter() - began
    answered = sum(1 for _ in out.open("rb"))
    assert process.returncode == 0, process.returncode
    assert answered == rows, answered
    middle = sorted(samples[len(samples) // 4 : len(samples) * 3 // 4] or samples)
    found = {"rows": rows, "peak_mb": max(samples) / 1e6, "median_mb": middle[len(middle) // 2] / 1e6}
    return {name: round(value, 1) for name, value in (found | {"seconds": seconds}).items()} | {"rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    curve = []
    with tempfile.TemporaryDirectory() as scratch, mock(0.0) as url:
        pictures(Path(scratch, "images"), _IMAGES, 2_000)
        for rows in arguments.rows:
            curve.append(measured(url, Path(scratch), rows, arguments.in_flight))
            print(json.dumps(curve[-1]), flush=True)
    if arguments.out is not None:
        result = {
            "command": f"python -m benchmarks.client_memory {' '.join(sys.argv[1:])}",
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "in_flight": arguments.in_flight, "curve": curve,
        }  # fmt: skip
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
