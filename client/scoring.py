from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from client.errors import ConfigurationError
from client.models import Done, Record, Skipped
from client.structured import json_in

_UNKNOWN = object()


@dataclass(frozen=True, slots=True)
class Score:
    """How many of the images whose answer is known were read exactly right. A failed one counts as not right."""

    right: int = 0
    total: int = 0

    @property
    def share(self) -> float:
        """Right out of total, between 0 and 1; 0 when nothing is known."""
        return self.right / self.total if self.total else 0.0


class Expected:
    """The known answers of a folder of images, by file name.

    A name matches a file by its whole path or by the end of it: `chart-1.png` matches `charts/chart-1.png`, and where
    two folders hold a `chart-1.png`, `a/chart-1.png` is the nearer match.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = {PurePath(name).parts: value for name, value in values.items()}

    @classmethod
    def read(cls, path: Path) -> Expected:
        """From lines of `{"file": "chart-1.png", "expected": {...}}`.

        Raises:
            ConfigurationError: unreadable, or a line that is something else.
        """
        try:
            # utf-8-sig: Windows editors begin a file with a byte order mark. split: JSON may hold U+2028 as it is.
            lines = path.read_text("utf-8-sig").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"the expected answers {path} cannot be read: {error}") from error
        values = {}
        for number, line in enumerate(lines, start=1):
            if line.strip():
                name, value = _entry(line, f"{path}, line {number}")
                values[name] = value
        return cls(values)

    def __len__(self) -> int:
        return len(self._values)

    def get(self, file: str, default: Any = None) -> Any:
        """The known answer of a file, or `default`."""
        if not self._values:
            return default
        parts = PurePath(file).parts
        ends = (parts[start:] for start in range(len(parts)))
        return next((self._values[end] for end in ends if end in self._values), default)

    def of(self, record: Record, default: Any = None) -> Any:
        """The known answer of a record: of its name, or of its only image where it is a row of a manifest."""
        names = [record.file, *(record.images if len(record.images) == 1 else ())]
        return next((self.get(name) for name in names if self.get(name, _UNKNOWN) is not _UNKNOWN), default)

    def right(self, record: Record) -> bool | None:
        """Whether the record's answer is exactly the expected one; None where none is known or nothing was asked."""
        known = self.of(record, _UNKNOWN)
        if isinstance(record, Skipped) or known is _UNKNOWN:
            return None
        return isinstance(record, Done) and is_right(record.answer, known)


def _entry(line: str, where: str) -> tuple[str, Any]:
    try:
        entry = json.loads(line)
        return str(entry["file"]), entry["expected"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f'{where}: not of the form {{"file": ..., "expected": ...}}') from error


def is_right(text: str, expected: Any) -> bool:
    """True when the JSON in an answer equals `expected`, or its words do where words are expected."""
    if isinstance(expected, str) and text.strip() == expected.strip():
        return True
    try:
        return same(json_in(text), expected)
    except (ValueError, RecursionError):
        return False


def same(left: Any, right: Any) -> bool:
    """Equality of JSON values: 1 equals 1.0, but true is no number, and order counts in arrays only."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)
