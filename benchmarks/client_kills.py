"""kill -9 of clients, workers and servers at random moments: is anything lost, and is anything asked twice?

    python -m benchmarks.client_kills --clients 60 --workers 70 --servers 70 --out benchmarks/results/client_kills.json

Two trials side by side, each against a mock server of its own: `homescope batch` works through images, and two
`homescope pipeline work` on the embedded broker, which the first of them keeps and which dies with it. After a random
time a client, a worker or a server gets SIGKILL and is started again, until so many kills were made; then the work runs
to its end. Lost is an image that ends without an answer. Asked twice is an image whose answer was in the ledger (the
database of the pipeline) after a kill and that reached the server once more: the server writes every question to a file
before it answers. Questions that were in flight at a kill are asked again, and counted apart: the mock knows no
Idempotency-Key.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from benchmarks.client_mock import free_port, waited
from benchmarks.client_rate import pictures

_PER_KILL = 20
"""Images."""
_QUESTIONS, _LONGEST = 16, 20.0
"""Between two kills, at most; the second in seconds."""
_LEASE = 4
_PATIENCE = 1_800
"""Seconds for what is left after the last kill."""


@dataclass
class Trial(ABC):
    """Work that is killed again and again. Images are known by the digests that the server notes of them."""

    scratch: Path
    latency: float
    in_flight: int
    kills: Counter[str]
    dice: random.Random
    port: int = field(default_factory=free_port)
    acknowledged: dict[str, int] = field(default_factory=dict)
    killed: Counter[str] = field(default_factory=Counter)

    worker = "client"
    processes = 1

    @abstractmethod
    def command(self) -> list[str]:
        """Of `homescope`, without the server."""

    @abstractmethod
    def answered(self) -> set[str]:
        """What the ledger holds answers for."""

    @abstractmethod
    def delivered(self) -> set[str]:
        """What a user finds in the results, as an answer."""

    @property
    def images(self) -> Path:
        return self.scratch / "images"

    @property
    def log(self) -> Path:
        return self.scratch / "asked.log"

    def server(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "benchmarks.client_mock", "--port", str(self.port)]
        process = subprocess.Popen([*command, "--latency", str(self.latency), "--log", str(self.log)])
        waited(self.port)
        return process

    def start(self) -> subprocess.Popen[bytes]:
        server = ["--api-key", "sk-benchmark", "--base-url", f"http://127.0.0.1:{self.port}/api/v1"]
        command = [sys.executable, "-m", "client", *self.command(), *server]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def asked(self) -> list[str]:
        """What reached the server, in order."""
        with suppress(FileNotFoundError):
            return self.log.read_text().split()
        return []

    def acknowledge(self) -> None:
        """Notes what is answered, and how many questions had been asked until then."""
        answered = self.answered()
        questions = len(self.asked())  # read later: the questions of these answers are among them
        for digest in answered:
            self.acknowledged.setdefault(digest, questions)

    def run(self) -> None:
        self.prepare()
        running = {"server": [self.server()], self.worker: [self.start() for _ in range(self.processes)]}
        while left := self.kills - self.killed:
            self._wait()
            self._kill(self.dice.choice(list(left.elements())), running)
        for process in running[self.worker]:
            process.wait(_PATIENCE)
        for _ in range(3):  # what failed while the server was away is asked again by the next run
            self.start().wait(_PATIENCE)
        running["server"][0].terminate()
        running["server"][0].wait(10)

    def prepare(self) -> None:
        """What comes before the first start."""
        pictures(self.images, self.kills.total() * _PER_KILL, 1_000)

    def _wait(self) -> None:
        """For a random number of questions, so that a slow start is no shelter, and for a part of an answer."""
        until, questions = time.monotonic() + _LONGEST, len(self.asked()) + self.dice.randint(0, _QUESTIONS)
        while len(self.asked()) < questions and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(self.dice.uniform(0, self.latency))

    def _kill(self, what: str, running: dict[str, list[subprocess.Popen[bytes]]]) -> None:
        at = self.dice.randrange(len(running[what]))
        process = running[what][at]
        if process.poll() is None:
            process.kill()
            self.killed[what] += 1
        process.wait(10)
        if what == self.worker:  # while it runs, nobody else can read the ledger of a batch
            self.acknowledge()
        running[what][at] = self.server() if what == "server" else self.start()

    def judged(self) -> dict[str, Any]:
        images = {_digest(str(path)) for path in self.images.iterdir()}
        asked = self.asked()
        twice = [digest for digest, until in self.acknowledged.items() if digest in set(asked[until:])]
        return {
            "images": len(images),
            "kills": dict(self.killed),
            "acknowledged_before_the_last_kill": len(self.acknowledged),
            "lost": len(images - self.delivered()),
            "asked_twice_after_an_acknowledged_answer": len(twice),
            "questions": len(asked),
            "asked_again_after_a_kill_in_flight": len(asked) - len(set(asked)),
        }


class Batch(Trial):
    @property
    def out(self) -> Path:
        return self.scratch / "out.jsonl"

    def command(self) -> list[str]:
        options = ["--prompt", "?", "--quiet", "--concurrency", str(self.in_flight)]
        return ["batch", str(self.images), "--out", str(self.out), *options]

    def answered(self) -> set[str]:
        rows = _rows(Path(f"{self.out}.ledger"), "SELECT file FROM states WHERE state = 'done'")
        return {_digest(file) for (file,) in rows}

    def delivered(self) -> set[str]:
        records = map(json.loads, self.out.read_text("utf-8").splitlines())
        return {_digest(record["file"]) for record in records if record["state"] == "done" and record["answer"]}


class Pipeline(Trial):
    worker = "worker"
    processes = 2

    @property
    def data(self) -> Path:
        return self.scratch / "pipeline"

    def prepare(self) -> None:
        super().prepare()
        submit = ["submit", str(self.images), "--prompt", "?", "--data", str(self.data)]
        subprocess.run([sys.executable, "-m", "client", "pipeline", *submit], check=True, stdout=subprocess.DEVNULL)

    def command(self) -> list[str]:
        options = ["--lease", str(_LEASE), "--tries", "100", "--concurrency", str(self.in_flight // self.processes)]
        return ["pipeline", "work", "--until-empty", "--data", str(self.data), *options]

    def answered(self) -> set[str]:
        query = "SELECT w.body FROM pipeline_work w JOIN pipeline_answers a ON w.key = a.key"
        return {json.loads(body)["digest"][:16] for (body,) in _rows(self.data / "pipeline.db", query)}

    def delivered(self) -> set[str]:
        command = [sys.executable, "-m", "client", "pipeline", "results", "--data", str(self.data)]
        lines = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()
        done = [line for line in map(json.loads, lines) if line["state"] == "done" and line["record"]["answer"]]
        return {_digest(str(self.images / line["label"])) for line in done}


def _digest(file: str) -> str:
    return sha256(Path(file).read_bytes()).hexdigest()[:16]


def _rows(database: Path, query: str) -> list[Any]:
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(database, timeout=30)) as opened:
        return opened.execute(query).fetchall()
    return []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for what, kills in {"clients": 60, "workers": 70, "servers": 70}.items():
        parser.add_argument(f"--{what}", type=int, default=kills, help="to be killed")
    parser.add_argument("--in-flight", type=int, default=8)
    parser.add_argument("--latency", type=float, default=0.3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    half = arguments.servers // 2
    with tempfile.TemporaryDirectory() as scratch:
        trials: list[Trial] = []
        for kind, workers in (Batch, arguments.clients), (Pipeline, arguments.workers):
            own = Path(scratch, kind.__name__)
            own.mkdir()
            wanted = Counter({kind.worker: workers, "server": half})
            trials.append(kind(own, arguments.latency, arguments.in_flight, wanted, random.Random(arguments.seed)))
        with ThreadPoolExecutor(len(trials)) as side_by_side:
            list(side_by_side.map(lambda trial: trial.run(), trials))
        found = {type(trial).__name__.lower(): trial.judged() for trial in trials}
    result = {
        "command": f"python -m benchmarks.client_kills {' '.join(sys.argv[1:])}",
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "kills": dict(trials[0].killed + trials[1].killed),
        "lost": sum(each["lost"] for each in found.values()),
        "asked_twice_after_an_acknowledged_answer": sum(
            each["asked_twice_after_an_acknowledged_answer"] for each in found.values()
        ),
        "trials": found,
    }
    print(json.dumps(result))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(1 if result["lost"] or result["asked_twice_after_an_acknowledged_answer"] else 0)


if __name__ == "__main__":
    main()
