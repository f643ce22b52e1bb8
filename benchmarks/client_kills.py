"""kill -9 of client and server at random moments: is anything lost, and is anything asked twice?

    python -m benchmarks.client_kills --kills 200 --out benchmarks/results/client_kills.json

`homescope batch` works through images against a mock server; after a random time the client, or the server, gets
SIGKILL and is started again, until so many kills were made; then the batch runs to its end. Lost is an image that ends
without an answer. Asked twice is an image whose answer was in the ledger when the client was killed and that reached
the server once more: the server writes every question to a file before it answers, and the ledger is read after each
kill. Questions that were in flight at a kill are asked again, and counted apart.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.client_mock import free_port, waited
from benchmarks.client_rate import pictures

_PER_KILL = 12
_SHORTEST, _LONGEST = 0.1, 4.0


@dataclass
class Trial:
    """One batch that is killed again and again."""

    scratch: Path
    latency: float
    in_flight: int
    dice: random.Random
    port: int = field(default_factory=free_port)
    acknowledged: dict[str, int] = field(default_factory=dict)
    killed: Counter[str] = field(default_factory=Counter)

    @property
    def log(self) -> Path:
        return self.scratch / "asked.log"

    @property
    def out(self) -> Path:
        return self.scratch / "out.jsonl"

    def server(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "benchmarks.client_mock", "--port", str(self.port)]
        process = subprocess.Popen([*command, "--latency", str(self.latency), "--log", str(self.log)])
        waited(self.port)
        return process

    def client(self) -> subprocess.Popen[bytes]:
        command = [
            sys.executable, "-m", "client", "batch", str(self.scratch / "images"), "--prompt", "?", "--quiet",
            "--out", str(self.out), "--concurrency", str(self.in_flight), "--api-key", "sk-benchmark",
            "--base-url", f"http://127.0.0.1:{self.port}/api/v1",
        ]  # fmt: skip
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def asked(self) -> list[str]:
        """Digests of the images that reached the server, in order."""
        with suppress(FileNotFoundError):
            return self.log.read_text().split()
        return []

    def acknowledge(self) -> None:
        """Notes what the ledger holds as answered, and how many questions had been asked until then."""
        questions = len(self.asked())
        with suppress(sqlite3.OperationalError), closing(sqlite3.connect(f"{self.out}.ledger")) as ledger:
            for (name,) in ledger.execute("SELECT file FROM states WHERE state = 'done'"):
                self.acknowledged.setdefault(name, questions)

    def run(self, kills: int) -> None:
        server, client = self.server(), self.client()
        while self.killed.total() < kills:
            with suppress(subprocess.TimeoutExpired):
                client.wait(self.dice.uniform(_SHORTEST, _LONGEST))
            if self.dice.random() < 0.75 or client.poll() is not None:
                self._kill(client, "client")
                self.acknowledge()
            else:
                self._kill(server, "server")
                server = self.server()
                continue
            client = self.client()
        client.wait(600)
        for _ in range(3):  # what failed while the server was away is asked again by the next run
            client = self.client()
            client.wait(600)
        server.send_signal(signal.SIGTERM)
        server.wait(10)

    def _kill(self, process: subprocess.Popen[bytes], what: str) -> None:
        if process.poll() is None:
            process.kill()
            self.killed[what] += 1
        process.wait(10)


def judged(trial: Trial, images: int) -> dict[str, Any]:
    from hashlib import sha256

    digests = {str(path): sha256(path.read_bytes()).hexdigest()[:16] for path in (trial.scratch / "images").iterdir()}
    asked = trial.asked()
    records = [json.loads(line) for line in trial.out.read_text("utf-8").splitlines()]
    done = {record["file"] for record in records if record["state"] == "done"}
    twice = [name for name, until in trial.acknowledged.items() if digests[name] in asked[until:]]
    return {
        "images": images,
        "kills": dict(trial.killed),
        "lost": images - len(done),
        "asked_twice_after_an_acknowledged_answer": len(twice),
        "questions": len(asked),
        "asked_again_after_a_kill_in_flight": len(asked) - len(set(asked)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--in-flight", type=int, default=8)
    parser.add_argument("--latency", type=float, default=0.3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    images = arguments.kills * _PER_KILL
    with tempfile.TemporaryDirectory() as scratch:
        pictures(Path(scratch, "images"), images, 1_000)
        trial = Trial(Path(scratch), arguments.latency, arguments.in_flight, random.Random(arguments.seed))
        trial.run(arguments.kills)
        found = judged(trial, images)
    print(json.dumps(found))
    if arguments.out is not None:
        about = {
            "command": f"python -m benchmarks.client_kills {' '.join(sys.argv[1:])}",
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "seed": arguments.seed,
        }
        arguments.out.write_text(json.dumps(about | found, indent=1) + "\n")
    sys.exit(1 if found["lost"] or found["asked_twice_after_an_acknowledged_answer"] else 0)


if __name__ == "__main__":
    main()
