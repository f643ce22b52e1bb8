"""One client's process, driven flow by flow."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.conformance import environments
from tests.conformance.clients.driver import Ask, Seen
from tests.conformance.material import order


class Crashed(AssertionError):
    """Raised when the client raised, or its process ended."""


class Driver:
    def __init__(self, command: list[str], log: Path) -> None:
        self._log = log
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                command,
                cwd=environments.ROOT,
                env=environments.environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
            )

    def run(self, flow: str, ask: Ask) -> Seen:
        """Raises `Crashed` with what the client's process said last."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(order(flow, ask))
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise Crashed(f"exit code {self._process.wait()}:\n{self._log.read_text()[-4000:]}")
        result = json.loads(answer)
        if "crashed" in result:
            raise Crashed(result["crashed"])
        return dict(result["seen"])

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
