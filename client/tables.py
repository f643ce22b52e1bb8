from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from client.errors import ConfigurationError
from client.models import Record, Skipped, state

_ROWS = 5_000
_TEXTS = ("key", "answer", "reason", "code", "finish_reason", "request_id", "model", "duplicate_of", "flaw")
_TOKENS = ("input_tokens", "output_tokens", "total_tokens", "image_tokens")


def check_parquet() -> None:
    """Raises ConfigurationError where Parquet cannot be written."""
    try:
        import pyarrow.parquet  # type: ignore[import-untyped]  # noqa: F401
    except ImportError as error:
        raise ConfigurationError("to write Parquet: pip install 'homescope[data]'") from error


def write_parquet(path: Path, records: Iterable[Record]) -> None:
    """One row per record, in steps of `_ROWS`, so that memory does not grow with the batch; replaced in one step.

    `value` is JSON text: its form is each batch's own. Tokens of what was not paid for itself (a duplicate) are as in
    the record it repeats: sum them where `duplicate_of` is null.

    Raises:
        OSError: it cannot be written.
    """
    import pyarrow
    import pyarrow.parquet

    new, schema = path.with_name(path.name + ".new"), _schema()
    remaining = iter(records)
    try:
        with pyarrow.parquet.ParquetWriter(new, schema, compression="zstd") as writer:
            while rows := list(map(_row, islice(remaining, _ROWS))):
                writer.write_table(pyarrow.Table.from_pylist(rows, schema))
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def _schema() -> Any:
    import pyarrow

    text, number = pyarrow.string(), pyarrow.int64()
    columns: Iterator[tuple[str, Any]] = iter([("file", text), ("state", text), ("value", text), ("status", number)])
    return pyarrow.schema(
        [
            *columns,
            *((name, text) for name in _TEXTS),
            *((name, number) for name in (*_TOKENS, "attempts")),
            ("seconds", pyarrow.float64()),
            ("mended", pyarrow.bool_()),
            ("images", pyarrow.list_(text)),
        ]
    )


def _row(record: Record) -> dict[str, Any]:
    value = getattr(record, "value", None)
    names = (*_TEXTS, "status", "attempts", "seconds", "mended")
    tokens = {} if isinstance(record, Skipped) else {name: getattr(record.usage, name) for name in _TOKENS}
    return {
        "file": record.file,
        "state": state(record),
        "value": None if value is None else json.dumps(value, ensure_ascii=False),
        "images": list(record.images),
        **{name: getattr(record, name, None) for name in names},
        **tokens,
    }
