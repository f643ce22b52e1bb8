"""How near the client comes to the ideal rate, what it costs, and what the usual loop reaches.

    python -m benchmarks.client_rate --seconds 20 --out benchmarks/results/client_rate.json

A mock server answers every question after a fixed time (`client_mock`, a process of its own). At N in flight the
ideal is N answers per latency. `homescope batch` runs as a process of its own, too, with its ledger, over images that
all differ. Its rate is taken between the answers at a tenth and at nine tenths of the run, so that starting Python and
filling the places do not count; `whole_run` counts everything. The comparison is the article's program: a `for` loop
over the images that posts each with `requests`, and the same in a pool of N threads. CPU is user and system time of the
client's process beyond that of a batch of four images (the start of Python and its imports), divided by its answers.
"""

from __future__ import annotations

import argparse
import base64
import concurrent.futures
import json
import os
import platform
import random
import resource
import sqlite3
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.client_mock import PATH, free_port, waited

PROMPT = "Read every value of the chart. Answer as JSON."


def picture(number: int, size: int) -> bytes:
    """A PNG of noise, about `size` bytes, different for every number."""
    side = max(8, round((size / 3) ** 0.5))
    noise = random.Random(number).randbytes(side * side * 3)
    rows = b"".join(b"\0" + noise[row * side * 3 : (row + 1) * side * 3] for row in range(side))
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 0)), (b"IEND", b""))
    parts = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def pictures(folder: Path, count: int, size: int) -> None:
    folder.mkdir()
    for number in range(count):
        (folder / f"chart-{number:06}.png").write_bytes(picture(number, size))


@contextmanager
def mock(latency: float) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.client_mock", "--port", str(port), "--latency", str(latency)]
    process = subprocess.Popen(command)
    try:
        waited(port)
        yield f"http://127.0.0.1:{port}/api/v1"
    finally:
        process.terminate()
        process.wait(10)


def batch(url: str, folder: Path, out: Path, in_flight: int) -> dict[str, float]:
    """Runs `homescope batch` and reads from its ledger when each answer was committed."""
    command = [
        sys.executable, "-m", "client", "batch", str(folder), "--prompt", PROMPT, "--out", str(out),
        "--concurrency", str(in_flight), "--quiet", "--base-url", url, "--api-key", "sk-benchmark",
    ]  # fmt: skip
    before, began = _children_cpu(), time.perf_counter()
    subprocess.run(command, check=True)
    seconds, cpu = time.perf_counter() - began, _children_cpu() - before
    with closing(sqlite3.connect(f"{out}.ledger")) as ledger:
        ends = sorted(at for (at,) in ledger.execute("SELECT julianday(at) * 86400 FROM states WHERE state = 'done'"))
    low, high = len(ends) // 10, len(ends) * 9 // 10
    rate = (high - low) / max(1e-3, ends[high] - ends[low])
    return {"rate": rate, "whole_run": len(ends) / seconds, "cpu": cpu, "answers": len(ends)}


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def article(url: str, folder: Path, in_flight: int) -> float:
    """Answers per second of the article's loop; with several in flight, of the same function in a pool of threads."""
    import requests

    def ask(path: Path) -> str:
        image = f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
        message = {"role": "user", "content": [{"image": image}, {"text": PROMPT}]}
        body = {"model": "qwen3-vl-30b", "input": {"messages": [message]}}
        reply = requests.post(url + PATH, json=body, headers={"Authorization": "Bearer sk-benchmark"}, timeout=60)
        return str(reply.json()["output"]["choices"][0]["message"]["content"][0]["text"])

    paths, began = sorted(folder.iterdir()), time.perf_counter()
    if in_flight == 1:
        answers = [ask(path) for path in paths]
    else:
        with concurrent.futures.ThreadPoolExecutor(in_flight) as pool:
            answers = list(pool.map(ask, paths))
    return len(answers) / (time.perf_counter() - began)


def measured(latency: float, seconds: float, size: int, levels: list[int]) -> list[dict[str, Any]]:
    results = []
    with tempfile.TemporaryDirectory() as scratch, mock(latency) as url:
        few = Path(scratch, "few")
        pictures(few, max(4, round(5 / latency)), size)
        loop = article(url, few, 1)
        start = batch(url, few, Path(scratch, "out-few.jsonl"), 4)["cpu"]
        for in_flight in levels:
            folder, ideal = Path(scratch, f"images-{in_flight}"), in_flight / latency
            pictures(folder, round(ideal * seconds), size)
            found = batch(url, folder, Path(scratch, f"out-{in_flight}.jsonl"), in_flight)
            pool = article(url, folder, in_flight)
            found["cpu_ms_each"] = (found.pop("cpu") - start) / found["answers"] * 1e3
            results.append(
                {"in_flight": in_flight, "ideal": ideal, "of_ideal": found["rate"] / ideal, **found}
                | {"loop": loop, "times_loop": found["rate"] / loop, "thread_pool": pool}
                | {"times_loop_of_in_flight": found["rate"] / loop / in_flight}
            )
            print(json.dumps(results[-1]), flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", type=float, default=1.0, help="seconds from question to answer")
    parser.add_argument("--seconds", type=float, default=20, help="how long each level should take")
    parser.add_argument("--size", type=int, default=30_000, help="bytes of an image")
    parser.add_argument("--in-flight", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    levels = measured(arguments.latency, arguments.seconds, arguments.size, arguments.in_flight)
    result = {
        "command": f"python -m benchmarks.client_rate {' '.join(sys.argv[1:])}",
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "load_before": load},
        "latency_s": arguments.latency, "image_bytes": arguments.size, "levels": levels,
        "cpu_ms_each_median": statistics.median(level["cpu_ms_each"] for level in levels),
    }  # fmt: skip
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
