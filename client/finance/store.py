from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from sqlalchemy import URL, RowMapping, delete, event, insert, make_url, select, text, update
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from client.documents import Box, Figure
from client.errors import ConfigurationError, LedgerError
from client.finance.lock import alone
from client.finance.rules import Alert
from client.finance.series import Flag, Point, Series
from client.finance.tables import VIEWS, alerts, documents, figures, flags, keys, metadata, points, readings
from client.sqlite import write_ahead


@dataclass(frozen=True, slots=True)
class Found:
    """A figure with its number in the database."""

    id: int
    figure: Figure


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a figure: `series` when it was read, else `reason`."""

    key: str
    model: str
    prompt_version: str
    series: Series | None = None
    reason: str = ""
    answer: str = ""
    words: str = ""
    request_id: str = ""
    input_tokens: int = 0
    output_tokens: int = 0


class Store:
    """Documents, figures, readings and alerts in SQLite or PostgreSQL. The tables are explained in `tables`.

    Args:
        engine: of SQLAlchemy; `opened` makes one from a URL.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        # SQLite has one writer; asking for its lock in turn is cheaper than being refused it.
        self._turn = asyncio.Lock() if engine.dialect.name == "sqlite" else None

    @classmethod
    @asynccontextmanager
    async def opened(cls, url: str) -> AsyncIterator[Self]:
        """`sqlite+aiosqlite:///PATH` or `postgresql+asyncpg://USER:PASSWORD@HOST/NAME`; makes tables and views.

        Raises:
            ConfigurationError: no such database, or nothing that can be one.
        """
        engine = _engine(url)
        try:
            store = cls(engine)
            await store._create(url)
            yield store
        finally:
            await engine.dispose()

    def alone(self) -> AbstractAsyncContextManager[None]:
        """Keeps other runs away while it is entered; see `lock.alone`. Raises LedgerBusy where there is one."""
        return alone(self._engine)

    async def _create(self, url: str) -> None:
        try:
            async with self._engine.begin() as db:
                await db.run_sync(metadata.create_all)
                await keys.begin(db)
                for name, query in VIEWS.items():
                    await db.execute(text(f"DROP VIEW IF EXISTS {name}"))
                    await db.execute(text(f"CREATE VIEW {name} AS {query}"))
        except (SQLAlchemyError, OSError) as error:
            shown = make_url(url).render_as_string(hide_password=True)
            cause = getattr(error, "orig", None) or error
            raise ConfigurationError(f"the database {shown} cannot be used: {cause}") from error

    @asynccontextmanager
    async def _write(self) -> AsyncIterator[AsyncConnection]:
        try:
            if self._turn is None:
                async with self._engine.begin() as db:
                    yield db
            else:
                async with self._turn, self._engine.begin() as db:
                    yield db
        except (SQLAlchemyError, OSError) as error:
            raise LedgerError(f"the database cannot be written: {getattr(error, 'orig', None) or error}") from error

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[AsyncConnection]:
        try:
            async with self._engine.connect() as db:
                yield db
        except (SQLAlchemyError, OSError) as error:
            raise LedgerError(f"the database cannot be read: {getattr(error, 'orig', None) or error}") from error

    async def searched(self, digest: str) -> list[Found] | None:
        """The figures of a document that an earlier run searched to its end and whose images are still there."""
        async with self._reading() as db:
            done = await db.scalar(select(documents.c.searched).where(documents.c.digest == digest))
            rows = (
                await db.execute(select(figures).where(figures.c.document == digest).order_by(figures.c.id))
            ).mappings()
            found = [_found(row) for row in rows]
        there = await asyncio.to_thread(lambda: all(each.figure.image.is_file() for each in found))
        return found if done and there else None

    async def begin(self, digest: str, path: Path, pages: int = 0) -> None:
        """Notes a document that is about to be searched."""
        await self._keep(digest, {"path": str(path), "pages": pages, "searched": False, "problems": ""})

    async def finish(self, digest: str, pages: int, problems: Sequence[str]) -> None:
        """Notes that every page was searched. One that could not be read is among the `problems`."""
        await self._keep(digest, {"pages": pages, "searched": True, "problems": "\n".join(problems)})

    async def _keep(self, digest: str, values: Mapping[str, Any]) -> None:
        values = {**values, "seen_at": datetime.now(UTC)}
        async with self._write() as db:
            changed = await db.execute(update(documents).where(documents.c.digest == digest).values(values))
            if not changed.rowcount:
                await db.execute(insert(documents).values(digest=digest, **values))

    async def add_figure(self, digest: str, figure: Figure) -> Found:
        """Adds a figure, or finds it again: a page and a box on it are one figure."""
        x0, y0, x1, y1 = figure.box
        place = {"document": digest, "page": figure.page, "x0": x0, "y0": y0, "x1": x1, "y1": y1}
        rest = {
            "kind": figure.kind, "caption": figure.caption, "scanned": figure.scanned, "image": str(figure.image),
            "image_digest": figure.digest, "nearby": figure.nearby,
        }  # fmt: skip
        same = [figures.c[name] == value for name, value in place.items()]
        async with self._write() as db:
            number = await db.scalar(select(figures.c.id).where(*same))
            if number is None:
                result = await db.execute(insert(figures).values(**place, **rest).returning(figures.c.id))
                number = result.scalar_one()
            else:
                await db.execute(update(figures).where(figures.c.id == number).values(rest))
        return Found(number, figure)

    async def reading(self, figure: int, key: str) -> int | None:
        """The number of a figure's reading that is done, None where it has to be asked."""
        wanted = (readings.c.figure == figure, readings.c.key == key, readings.c.state == "done")
        async with self._reading() as db:
            number: int | None = await db.scalar(select(readings.c.id).where(*wanted))
            return number

    async def twin(self, key: str) -> RowMapping | None:
        """A done reading of the same image anywhere: the answer needs not be asked for again."""
        query = select(readings).where(readings.c.key == key, readings.c.state == "done").limit(1)
        async with self._reading() as db:
            return (await db.execute(query)).mappings().first()

    async def idempotency_key(self, key: str) -> str:
        """Under which the questions of a key are sent: the same after a crash, another one after an unfit answer."""
        async with self._reading() as db:
            return await keys.of(db, key)

    async def count_unfit(self, key: str) -> None:
        """The answer to the question of a key did not fit: the next run asks it anew."""
        async with self._write() as db:
            await keys.count_unfit(db, key)

    async def address(self, name: str) -> str | None:
        """The address of an upload, as `client.uploads.Kept`."""
        with suppress(LedgerError):
            async with self._reading() as db:
                return await keys.address(db, name)
        return None

    async def keep_address(self, name: str, address: str, seconds: float) -> None:
        """Where it cannot be kept the image is uploaded again after a crash."""
        with suppress(LedgerError):
            async with self._write() as db:
                await keys.keep_address(db, name, address, seconds)

    async def forget_address(self, name: str) -> None:
        with suppress(LedgerError):
            async with self._write() as db:
                await keys.forget_address(db, name)

    async def add_reading(self, figure: int, outcome: Outcome) -> int:
        """Adds what became of a figure, in one transaction; a failure of the same key is replaced."""
        series = outcome.series
        values = {
            "figure": figure, "key": outcome.key, "state": "failed" if series is None else "done",
            "reason": outcome.reason, "model": outcome.model, "prompt_version": outcome.prompt_version,
            "answer": outcome.answer, "words": outcome.words, "request_id": outcome.request_id,
            "input_tokens": outcome.input_tokens, "output_tokens": outcome.output_tokens,
            "measure": series.measure if series else "", "unit": series.unit if series else "",
            "currency": series.currency if series else "",
        }  # fmt: skip
        async with self._write() as db:
            # Only one that failed is asked again, and it has no points.
            await db.execute(delete(readings).where(readings.c.figure == figure, readings.c.key == outcome.key))
            number: int = (await db.execute(insert(readings).values(values).returning(readings.c.id))).scalar_one()
            if series is not None:
                await db.execute(insert(points), [{"reading": number, **point.model_dump()} for point in series.points])
                if series.flags:
                    await db.execute(insert(flags), [{"reading": number, **flag.model_dump()} for flag in series.flags])
        return number

    async def set_alerts(self, reading: int, found: Sequence[Alert]) -> None:
        """Replaces the alerts of a reading: rules may have changed since it was read."""
        rows = [{"reading": reading, **each.model_dump() | {"years": " ".join(map(str, each.years))}} for each in found]
        async with self._write() as db:
            await db.execute(delete(alerts).where(alerts.c.reading == reading))
            if rows:
                await db.execute(insert(alerts), rows)

    async def series(self, reading: int) -> Series:
        """A reading as it was stored."""
        async with self._reading() as db:
            row = (await db.execute(select(readings).where(readings.c.id == reading))).mappings().one()
            own = (
                await db.execute(select(points).where(points.c.reading == reading).order_by(points.c.year))
            ).mappings()
            told = (await db.execute(select(flags).where(flags.c.reading == reading).order_by(flags.c.id))).mappings()
            return Series(
                measure=row["measure"],
                unit=row["unit"],
                currency=row["currency"],
                points=tuple(Point.model_validate(dict(each)) for each in own),
                flags=tuple(Flag.model_validate(dict(each)) for each in told),
            )

    async def rows(self, view: str, digests: Sequence[str]) -> AsyncIterator[Mapping[str, Any]]:
        """The rows of a view (`series`, `open_alerts`, `disagreements`) of some documents, in order."""
        order = {"series": "page, y0, x0, year"}.get(view, "page, y0, x0")
        query = text(f"SELECT * FROM {view} WHERE document_digest = :digest ORDER BY {order}")  # noqa: S608
        async with self._reading() as db:
            for digest in digests:
                for row in (await db.execute(query, {"digest": digest})).mappings():
                    yield dict(row)

    async def problems(self, digest: str) -> str:
        """Pages of a document that could not be read, a line each."""
        async with self._reading() as db:
            return str(await db.scalar(select(documents.c.problems).where(documents.c.digest == digest)) or "")

    async def outcomes(self, digest: str) -> list[RowMapping]:
        """Each figure of a document with the latest reading that it has: what the page shows."""
        each = readings.alias()
        latest = (
            select(each.c.id)
            .where(each.c.figure == figures.c.id)
            .order_by((each.c.state == "done").desc(), each.c.id.desc())
            .limit(1)
            .correlate(figures)
            .scalar_subquery()
        )
        query = (
            select(
                figures,
                readings.c.id.label("reading"),
                *(each for each in readings.c if each.name not in ("id", "figure")),
            )
            .select_from(figures.outerjoin(readings, readings.c.id == latest))
            .where(figures.c.document == digest)
            .order_by(figures.c.page, figures.c.y0, figures.c.x0)
        )
        async with self._reading() as db:
            return list((await db.execute(query)).mappings())

    async def alerts_of(self, reading: int) -> list[dict[str, Any]]:
        """The alerts of a reading."""
        async with self._reading() as db:
            query = select(alerts).where(alerts.c.reading == reading).order_by(alerts.c.id)
            return [dict(row) for row in (await db.execute(query)).mappings()]


def _engine(url: str) -> AsyncEngine:
    try:
        engine = create_async_engine(_with_driver(make_url(url)))
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        raise ConfigurationError(
            f"the database cannot be used: {error}; it is sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME "
            "(for PostgreSQL: pip install asyncpg)"
        ) from error
    if engine.dialect.name == "sqlite":
        # aiosqlite's thread may outlive the loop when it cannot connect, and print a traceback.
        folder = Path(engine.url.database or ".").parent
        if not folder.is_dir():
            raise ConfigurationError(f"the database {url} cannot be used: there is no folder {folder}")
        event.listen(engine.sync_engine, "connect", _prepare)
    return engine


def _with_driver(url: URL) -> URL:
    drivers = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}
    return url.set(drivername=drivers.get(url.drivername, url.drivername))


def _prepare(connection: Any, record: Any) -> None:
    cursor = connection.cursor()
    write_ahead(cursor, within=10)
    for pragma in ("foreign_keys = ON", "busy_timeout = 10000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _found(row: RowMapping) -> Found:
    box: Box = (row["x0"], row["y0"], row["x1"], row["y1"])
    names = ("page", "kind", "caption", "scanned", "nearby")
    same = {name: row[name] for name in names}
    figure = Figure(box=box, image=Path(row["image"]), digest=row["image_digest"], **same)
    return Found(row["id"], figure)
