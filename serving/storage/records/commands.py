"""`homescope-server records`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import IO

import click
import orjson
from sqlalchemy.ext.asyncio import AsyncEngine

from serving.console import give_up, read_settings, with_database
from serving.storage.records.recorder import export


@click.group("records")
def records_group() -> None:
    """What the server has kept of requests."""


@records_group.command("export")
@click.option("--since", help="first UTC day or moment, like 2026-11-01 or 2026-11-01T08:00; default: all")
@click.option("--until", help="the moment, or the day, before which to end; default: now")
@click.option("--out", type=click.File("wb", lazy=True), default="-", help="file to write; default: standard output")
def export_command(since: str | None, until: str | None, out: IO[bytes]) -> None:
    """Write records as JSON, one a line, the oldest first."""
    start, end = _epoch_ms(since, "--since", 0), _epoch_ms(until, "--until", 1 << 62)

    async def write(engine: AsyncEngine) -> None:
        async for record in export(engine, start, end):
            for name in ("question", "answer"):
                record[name] = None if record[name] is None else orjson.Fragment(record[name])
            out.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))

    with_database(read_settings(), write)


def _epoch_ms(moment: str | None, option: str, default: int) -> int:
    if moment is None:
        return default
    try:
        at = datetime.fromisoformat(moment)
    except ValueError:
        give_up(f"{option} {moment} is no date; write one like 2026-11-01 or 2026-11-01T08:00")
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
