"""One line of JSON for each request, and nothing thrown away: every number of a report is made from these.

The first line of a file is the run: {"run": {...}} with commit, machine, versions, seed and workload. Another such line
at the end adds what is known only then.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TextIO

OK = "ok"


class BadRecords(Exception):
    """Raised when a file of records cannot be read; the message names the line."""


@dataclass(slots=True)
class Record:
    """What happened to one request. Times are nanoseconds of one monotonic clock, from the start of the run.

    Attributes:
        number: place in the schedule.
        name: scenario or dialect.
        intended: when the schedule wanted it sent.
        sent: when it was handed to the connection.
        held: of the time before `sent`, what it waited for a place under the limit of requests in flight.
        uploaded: when its last byte had left this process; None where the sender does not know.
        first: when the first piece of text arrived; None for whole answers and where none came.
        end: when the answer was complete, or had failed.
        gaps: between two pieces of text, microseconds.
        status: of HTTP; 0 where no answer came.
        outcome: `ok`, or why not: the server's error code, or the name of what broke.
        bytes_sent, bytes_received: bodies.
        images, pixels: what was sent.
        input_tokens, output_tokens, image_tokens: as the server counts them.
        digest: SHA-256 of the answer's text, hexadecimal.
        score: of the answer, 0 to 1; None where no answer is known.
        cache: what the server said of its answer cache.
        port: this end of the connection, by which a capture of the wire knows it; 0 where the sender does not know.
    """

    number: int
    name: str
    intended: int
    sent: int
    end: int
    held: int = 0
    uploaded: int | None = None
    first: int | None = None
    gaps: list[int] = field(default_factory=list)
    status: int = 0
    outcome: str = OK
    bytes_sent: int = 0
    bytes_received: int = 0
    images: int = 0
    pixels: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    image_tokens: int = 0
    digest: str = ""
    score: float | None = None
    cache: str = ""
    port: int = 0

    @property
    def ok(self) -> bool:
        return self.outcome == OK

    @property
    def lag(self) -> int:
        """How late the generator itself was, nanoseconds."""
        return self.sent - self.intended - self.held


_NAMES = [each.name for each in fields(Record)]


class Writer:
    """A file of records, written as they come, so that a run which is killed loses only its last moments."""

    def __init__(self, path: Path, run: Mapping[str, Any]) -> None:
        self._file: TextIO = path.open("w", encoding="utf-8")
        self.tell(run)

    def tell(self, run: Mapping[str, Any]) -> None:
        """Adds to what is known of the run."""
        self._file.write(json.dumps({"run": run}, ensure_ascii=False, default=str) + "\n")

    def write(self, record: Record) -> None:
        self._file.write(json.dumps({name: getattr(record, name) for name in _NAMES}, separators=(",", ":")) + "\n")

    def close(self) -> None:
        self._file.close()


def read(path: Path) -> tuple[dict[str, Any], list[Record]]:
    """The run and its records. A last line that was cut off is left out: the run was killed.

    Raises:
        BadRecords: not a file of records.
    """
    lines = _lines(path)
    try:
        run = json.loads(next(lines))["run"]
    except (StopIteration, ValueError, KeyError, TypeError) as error:
        raise BadRecords(f"{path} does not begin with the line of a run; is it a file of records?") from error
    records = []
    for number, line in enumerate(lines, start=2):
        try:
            entry = json.loads(line)
            if "run" in entry:
                run |= entry["run"]
            else:
                records.append(Record(**entry))
        except (ValueError, TypeError) as error:
            if line.endswith("\n"):
                raise BadRecords(f"{path}, line {number}: {error}") from error
    return run, records


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8") as file:
            yield from file
    except (OSError, UnicodeDecodeError) as error:
        raise BadRecords(f"{path} cannot be read: {error}") from error
