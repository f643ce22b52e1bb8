"""How well annual reports are read from end to end: figures found, and values exact, against what was printed.

python -m benchmarks.reports_accuracy --count 30 --seed 9301 [--out benchmarks/results/reports_accuracy.json]

Starts `homescope-server run` on its embedded engine, or asks the server named by DASHSCOPE_HTTP_BASE_URL and
DASHSCOPE_API_KEY; then `homescope report`, as a user would. A figure is found when a region covers at least half of it
and it at least half of the region (intersection over union), on its page. Figures that are found but are none are
counted, too.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from client.documents.regions import overlap
from client.samples import write_reports

FOUND = 0.5
KEYS = ("years", "values", "growth")
READY_WITHIN_S = 900
_SERVER_NAMES = ("DASHSCOPE_HTTP_BASE_URL", "DASHSCOPE_API_KEY")


@contextmanager
def server(folder: Path) -> Iterator[dict[str, str]]:
    """The environment in which a client reaches a server; its own is started where none is named."""
    if all(os.environ.get(name) for name in _SERVER_NAMES):
        yield dict(os.environ)
        return
    environment = os.environ | {"HOMESCOPE_DATA": str(folder / "data"), "HOMESCOPE_LOG_LEVEL": "warning"}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    made = subprocess.run(
        [command("homescope-server"), "keys", "create", "--name", "benchmark"],
        env=environment, check=True, capture_output=True, text=True,
    )  # fmt: skip
    arguments = ["run", "--host", "127.0.0.1", "--port", str(port)]
    running = subprocess.Popen([command("homescope-server"), *arguments], env=environment)
    try:
        wait_ready(f"http://127.0.0.1:{port}/readyz", running)
        values = (f"http://127.0.0.1:{port}/api/v1", made.stdout.split()[-1])
        yield environment | dict(zip(_SERVER_NAMES, values, strict=True))
    finally:
        running.terminate()
        running.wait(60)


def command(name: str) -> str:
    """The script `name` of the environment that runs this."""
    return str(Path(sys.executable).parent / name)


def wait_ready(url: str, running: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline and running.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise SystemExit("the server did not become ready")


def compare(known: dict[str, Any], found: list[sqlite3.Row], database: sqlite3.Connection) -> Counter[str]:
    """Counts of one report, keys such as `vector chart found`."""
    counts: Counter[str] = Counter()
    left = list(found)
    for figure in known["figures"]:
        name = f"{'scanned' if figure['scanned'] else 'vector'} {figure['kind']}"
        counts[f"{name} all"] += 1
        if figure["kind"] == "chart":  # those of a chart that is not found are not exact
            counts[f"{name} single figures"] += sum(len(figure["expected"][key]) for key in KEYS)
        match = best(figure, left)
        if match is None:
            continue
        left.remove(match)
        counts[f"{name} found"] += 1
        counts[f"{name} kind right"] += (match["kind"] == "table") == (figure["kind"] == "table")
        counts[f"{name} caption right"] += squeezed(match["caption"]) == squeezed(figure["caption"])
        if figure["kind"] == "chart":
            counts.update({f"{name} {key}": value for key, value in judged(figure, match, database).items()})
    counts["found, but none"] = len(left)
    return counts


def best(figure: dict[str, Any], found: list[sqlite3.Row]) -> sqlite3.Row | None:
    scored = [(overlap(box(row), tuple(figure["box"])), row) for row in found if row["page"] == figure["page"]]
    score, row = max(scored, key=lambda each: each[0], default=(0.0, None))
    return row if score >= FOUND else None


def box(row: sqlite3.Row) -> tuple[float, float, float, float]:
    return row["x0"], row["y0"], row["x1"], row["y1"]


def squeezed(text: str) -> str:
    """Without spaces and with one form of brackets: what OCR and fonts may differ in."""
    return "".join(text.split()).translate(str.maketrans("（）：", "():"))


def judged(figure: dict[str, Any], match: sqlite3.Row, database: sqlite3.Connection) -> dict[str, int]:
    """Whether every figure of a chart was read as printed, and how many single ones were."""
    expected = figure["expected"]
    query = "SELECT answer FROM readings WHERE figure = ? AND state = 'done' ORDER BY id DESC LIMIT 1"
    row = database.execute(query, (match["id"],)).fetchone()
    answer = json.loads(row["answer"]) if row else {}
    singles = [
        at < len(answer.get(key, [])) and answer[key][at] == value
        for key in KEYS
        for at, value in enumerate(expected[key])
    ]
    return {
        "every figure exact": all(answer.get(key) == expected[key] for key in KEYS),
        "unit exact": answer.get("unit") == expected["unit"],
        "single figures exact": sum(singles),
    }


def measured(folder: Path, count: int, seed: int) -> dict[str, Any]:
    reports, out = folder / "reports", folder / "out"
    paths = list(write_reports(reports, count, seed))
    with server(folder) as environment:
        began = time.monotonic()
        done = subprocess.run([command("homescope"), "report", str(reports), "--out", str(out)], env=environment)
        seconds = time.monotonic() - began
    counts: Counter[str] = Counter()
    with closing(sqlite3.connect(out / "report.db")) as database:
        database.row_factory = sqlite3.Row
        for path in paths:
            query = "SELECT f.* FROM figures f JOIN documents d ON d.digest = f.document WHERE d.path = ?"
            found = database.execute(query, (str(path),)).fetchall()
            counts += compare(json.loads(path.with_suffix(".json").read_text("utf-8")), found, database)
        doubts = dict(database.execute("SELECT kind, count(*) FROM flags GROUP BY kind").fetchall())
    return {"exit_code": done.returncode, "seconds": round(seconds, 1), **summed(counts), "doubts": doubts}


def summed(counts: Counter[str]) -> dict[str, Any]:
    charts = ("vector chart", "scanned chart")

    def of(names: tuple[str, ...], key: str) -> int:
        return sum(counts[f"{name} {key}"] for name in names)

    return {
        "figures_found": f"{of((*charts, 'vector table'), 'found')}/{of((*charts, 'vector table'), 'all')}",
        "charts_exact": f"{of(charts, 'every figure exact')}/{of(charts, 'all')}",
        "values_exact": f"{of(charts, 'single figures exact')}/{of(charts, 'single figures')}",
        "counts": dict(sorted(counts.items())),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Figures found and values exact in generated annual reports.")
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--seed", type=int, default=9301, help="nothing was tuned on the default")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/reports_accuracy.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measured(Path(folder), options.count, options.seed)
    command_line = f"python -m benchmarks.reports_accuracy --count {options.count} --seed {options.seed}"
    known = {"command": command_line, "cpus": os.cpu_count(), "measured": time.strftime("%Y-%m-%d")}
    text = json.dumps(known | result, ensure_ascii=False, indent=2)
    options.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
