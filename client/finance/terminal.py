from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from client.errors import ConfigurationError
from client.finance.export import write_csv, write_parquet
from client.finance.page import write_page
from client.finance.store import Store
from client.finance.work import Options, Read, Reports, Unread
from client.interrupt import interruptible
from client.pace import Pace
from client.progress import duration
from client.session import Session
from client.terminal import INTERRUPTED, SOME_FAILED, UNUSABLE, complain

PLAIN_INTERVAL = 10.0
STOPPING = "stopping: finishing what is in flight, Ctrl-C again drops it"
_SHOWN_PROBLEMS = 10


@dataclass(frozen=True, slots=True)
class Plan:
    """A report as its command line told it. The fields are the command's options."""

    documents: Sequence[Path]
    out: Path
    database: str
    options: Options
    concurrency: int
    show: bool = False
    quiet: bool = False


async def run(session: Session, plan: Plan) -> int:
    """Reads the documents before a person; writes page, CSV and Parquet.

    Returns:
        The exit code: 0, `SOME_FAILED`, `UNUSABLE` or `INTERRUPTED`.

    Raises:
        ConfigurationError, LedgerError: the database or the folder cannot be used; another run holds it.
    """
    began = time.monotonic()
    console, out = Console(stderr=True, highlight=False, soft_wrap=True), Console(highlight=False, soft_wrap=True)
    async with Store.opened(plan.database) as store, store.alone():
        reports = Reports(
            session, store, plan.options, Pace(plan.concurrency), lambda event: _tell(event, plan, console, out)
        )
        with interruptible(reports, lambda: console.print(STOPPING)):
            async with _progress(reports, plan, console, began):
                await reports.run(plan.documents)
        await _write(plan, store, reports)
    code = _outcome(reports)
    if not plan.quiet or code:
        _summarise(reports, plan, out, time.monotonic() - began)
    if reports.stopped is not None:
        return complain(reports.stopped)
    return code


def _outcome(reports: Reports) -> int:
    if reports.stopping and reports.stopped is None:
        return INTERRUPTED
    if not reports.digests:
        return UNUSABLE
    return SOME_FAILED if reports.unread else 0


def _tell(event: Read | Unread, plan: Plan, console: Console, out: Console) -> None:
    if isinstance(event, Unread):
        place = f", page {event.page}" if event.page else ""
        console.print(Text.assemble(("not read: ", "red"), f"{event.path}{place}: {event.reason}"))
        return
    if plan.show:
        out.print(_table(event))
        for flag in event.series.flags:
            out.print(Text.assemble(("  doubtful: ", "yellow"), flag.message))
    if not plan.quiet:
        for alert in event.alerts:
            doubt = "" if alert.certain else "  (doubtful: figures or words disagree)"
            place = f"{event.path.name}, page {event.found.figure.page}"
            out.print(Text.assemble((f"{alert.label}  ", "bold red"), f"{place}: {alert.message}{doubt}"))


def _table(event: Read) -> Table:
    series, figure = event.series, event.found.figure
    title = f"{event.path.name}, page {figure.page}: {figure.caption or series.measure or 'chart without a caption'}"
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("year")
    for name in (f"value ({series.unit or 'no unit'})", f"amount {series.currency}".strip(), "growth", "recomputed"):
        table.add_column(name, justify="right")
    for point in series.points:
        amount = "-" if point.amount is None else f"{point.amount:,.0f}"
        table.add_row(
            str(point.year),
            f"{point.value:,g}",
            amount,
            _percent(point.growth_printed),
            _percent(point.growth_computed),
        )
    return table


def _percent(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.1f} %"


async def _write(plan: Plan, store: Store, reports: Reports) -> None:
    digests = list(reports.digests)
    try:
        for view, name in (("series", "series"), ("open_alerts", "alerts")):
            await write_csv(plan.out / f"{name}.csv", view, store.rows(view, digests))
            await write_parquet(plan.out / f"{name}.parquet", view, store.rows(view, digests))
        await write_page(plan.out / "report.html", store, reports.digests, reports.unread)
    except OSError as error:
        raise ConfigurationError(f"{error.filename or plan.out} cannot be written: {error.strerror}") from error


def _summarise(reports: Reports, plan: Plan, out: Console, seconds: float) -> None:
    counts = reports.counts
    before = f" ({counts.resumed} in an earlier run)" if counts.resumed else ""
    tokens = f"{counts.usage.input_tokens:,} tokens in, {counts.usage.output_tokens:,} out"
    out.print(
        f"{counts.documents} of {len(plan.documents)} documents, {counts.figures} charts: {counts.read} read{before}, "
        f"{counts.failed} not; {counts.tables} tables; {counts.alerts} alerts, {counts.flags} doubts; "
        f"{duration(seconds)}; {tokens}"
    )
    if reports.stopping and reports.stopped is None:
        out.print("stopped early: run the same command again to go on, what is read is not asked again")
    elif counts.failed:
        out.print("run the same command again to ask about the charts that were not read")
    out.print(f"database: {plan.out / 'report.db' if plan.database.startswith('sqlite') else 'as named'}")
    out.print(f"tables:   {plan.out / 'series.csv'}, {plan.out / 'alerts.csv'} (and .parquet)")
    out.print(f"page:     {plan.out / 'report.html'}")


def _line(reports: Reports, plan: Plan, began: float) -> str:
    """`2 of 8 documents, page 31 of 180 of annual.pdf; 12 charts, 9 read, 0 not; 1 min 2 s`."""
    counts = reports.counts
    place = f", page {reports.page} of {reports.pages or '?'} of {reports.now.name}" if reports.now else ""
    charts = f"{counts.figures} charts, {counts.read} read, {counts.failed} not, {counts.alerts} alerts"
    stopping = "; finishing these, Ctrl-C again to drop them" if reports.stopping else ""
    passed = duration(time.monotonic() - began)
    return f"{counts.documents} of {len(plan.documents)} documents{place}; {charts}; {passed}{stopping}"


@asynccontextmanager
async def _progress(reports: Reports, plan: Plan, console: Console, began: float) -> AsyncIterator[None]:
    if plan.quiet:
        yield
    elif console.is_terminal:
        with Live(console=console, get_renderable=lambda: Text(_line(reports, plan, began)), transient=True):
            yield
    else:
        ticking = asyncio.create_task(_tick(reports, plan, console, began))
        try:
            yield
        finally:
            ticking.cancel()
            with suppress(asyncio.CancelledError):
                await ticking


async def _tick(reports: Reports, plan: Plan, console: Console, began: float) -> None:
    while True:
        await asyncio.sleep(PLAIN_INTERVAL)
        console.print(_line(reports, plan, began), markup=False)
