"""What the commands of `homescope-server` share: reading the settings, and telling a mistake."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NoReturn, TypeVar

import click
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from serving import settings
from serving.settings import Settings, SettingsError
from serving.storage import database

T = TypeVar("T")


def read_settings(**overrides: Any) -> Settings:
    try:
        return settings.load(**{name: value for name, value in overrides.items() if value is not None})
    except SettingsError as error:
        give_up(str(error))


def give_up(message: str) -> NoReturn:
    """One line for a mistake of the person at the keyboard, and exit code 2."""
    click.echo(f"homescope-server: {message}", err=True)
    sys.exit(2)


def with_database(chosen: Settings, use: Callable[[AsyncEngine], Coroutine[Any, Any, T]]) -> T:
    """Runs `use` on the server's database, up to date."""

    async def open_and_use() -> T:
        engine = database.at(chosen.data, chosen.database_url)
        try:
            await database.create_tables(engine, chosen.data)
            return await use(engine)
        finally:
            await database.close(engine)

    try:
        return asyncio.run(open_and_use())
    except (OSError, SQLAlchemyError) as error:
        if chosen.database is not None:
            give_up(f"the database cannot be used: {_reason(error)}; is it there, and is HOMESCOPE_DATABASE right?")
        give_up(
            f"cannot keep state in {chosen.data}: {_reason(error)}; set HOMESCOPE_DATA to a folder that can be written"
        )


def _reason(error: OSError | SQLAlchemyError) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error.__cause__ or error)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns that are as wide as they need, two spaces apart."""
    lines = [header, *rows]
    widths = [max(len(line[at]) for line in lines) for at in range(len(header))]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
