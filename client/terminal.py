from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.text import Text

from client.addresses import API_KEY_NAME, BASE_URL_NAME
from client.batch import SAME_REFUSAL, Batch
from client.errors import (
    AccountBlocked,
    ConfigurationError,
    ConnectionFailed,
    HomescopeError,
    LedgerError,
    NotFound,
    Unauthorized,
    UnusableImage,
)
from client.estimate import Estimate, estimate
from client.interrupt import interruptible
from client.ledger import Ledger
from client.limits import Quota
from client.models import Done, Failed, Job, Record
from client.pace import Pace
from client.prices import Price
from client.progress import Heartbeat, Progress, duration
from client.questions import Question
from client.report import Summary, kind, summarise, write_page
from client.retry import DEFAULT, Policy
from client.scoring import Expected
from client.session import Session
from client.sources import questions
from client.tables import write_parquet

SOME_FAILED, UNUSABLE, INTERRUPTED = 1, 2, 130
"""Exit codes beside 0. The second is also that of a wrong option."""

_ADVICE: dict[type[HomescopeError], str] = {
    Unauthorized: f"check --api-key or {API_KEY_NAME}",
    AccountBlocked: "the account has to be settled with the provider first",
    NotFound: "check --model, and that --base-url ends in /api/v1",
    ConnectionFailed: f"is the server running (homescope-server run)? Else pass --base-url or set {BASE_URL_NAME}",
}
_COLOURS = {"right": "green", "wrong": "red", "failed": "red", "skipped": "yellow", "done": "green"}
_SHOWN_FAILURES = 5
_OUT_ENDS = ("", ".ledger", ".ledger-journal", ".ledger-wal", ".reserve", ".new")


@dataclass(frozen=True, slots=True)
class Plan:
    """A batch as its command line told it.

    Attributes:
        own: files that belong to the run and are no images of it, wherever they lie.
        min_right: the least share of known answers to be read exactly right, 0 to 1.
        retry: when and how often to ask again.
        price: of the model's tokens, None where it is not known.
        The others are the command's options.
    """

    sources: Sequence[str]
    out: Path
    job: Job
    pace: Pace
    expected: Expected
    page: Path | None
    own: Sequence[Path]
    min_right: float | None = None
    quiet: bool = False
    show: bool = False
    keep_going: bool = False
    retry_failed: bool = False
    parquet: Path | None = None
    heartbeat: Path | None = None
    price: Price | None = None
    retry: Policy = DEFAULT

    def questions(self) -> Iterator[Question]:
        """What to ask, drawn anew at every call."""
        beside = [self.out.with_name(self.out.name + end) for end in _OUT_ENDS]
        written = [path for path in (self.page, self.parquet, self.heartbeat) if path is not None]
        half_written = [path.with_name(path.name + ".new") for path in written]
        return questions(self.sources, self.job.prompt, [*self.own, *beside, *written, *half_written])

    def count(self) -> int:
        return sum(1 for _ in self.questions())


async def run(session: Session, plan: Plan) -> int:
    """A batch before a person: progress, Ctrl-C, results, page, summary.

    Returns:
        The exit code: 0, `SOME_FAILED`, `UNUSABLE` or `INTERRUPTED`.

    Raises:
        LedgerError: the results cannot be written at all.
    """
    began = time.monotonic()
    console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    _make_folder(plan.out)
    with Ledger(plan.out, plan.job) as ledger:
        batch = _batch(session, ledger, plan, console)
        stopped = await _asked(batch, plan, console)
        summary = _summary(ledger, plan, console)
        _write_parquet(ledger, plan, console)
        failures = list(islice(ledger.failures(), _SHOWN_FAILURES))
    code = _outcome(batch, summary, plan, stopped)
    if not plan.quiet or code:
        _tell(_lines(batch, summary, plan, failures, time.monotonic() - began))
    if stopped is not None:
        alike = f"the first {SAME_REFUSAL} images all failed so: put it right, or go on regardless with --keep-going"
        complain(stopped, alike if batch.refused_alike else "")
    return code


def foretell(plan: Plan, quota: Quota) -> int:
    """`--dry-run`: what the batch would ask, take and cost. Nothing is sent and nothing written.

    Returns:
        The exit code: 0, or `UNUSABLE` when there is nothing to ask about.
    """
    told = estimate(plan.questions(), plan.job, plan.out)
    _tell(_foretold(told, plan, quota))
    return UNUSABLE if told.found == sum(told.skipped.values()) else 0


def _foretold(told: Estimate, plan: Plan, quota: Quota) -> Iterator[str]:
    yield f"{told.found} questions: {told.asked} to ask, {told.answered} answered already, {told.duplicates} duplicates"
    for reason, count in sorted(told.skipped.items(), key=lambda each: -each[1])[:_SHOWN_FAILURES]:
        yield f"skipped: {count} because of: {reason}"
    yield f"tokens:  about {told.input_tokens:,.0f} in, {told.output_tokens:,.0f} out"
    seconds = told.seconds(plan.pace.ceiling, quota.rpm, quota.tpm)
    known = f"at least {duration(seconds)}" if seconds is not None else "not known before the first answers"
    yield f"time:    {known}, with {plan.pace.ceiling} in flight"
    price = plan.price
    yield f"price:   {f'about {price.shown(told.cost(price))}' if price else 'not known here: --price IN:OUT:CURRENCY'}"


def _write_parquet(ledger: Ledger, plan: Plan, console: Console) -> None:
    if plan.parquet is None:
        return
    try:
        write_parquet(plan.parquet, ledger.records())
    except OSError as error:
        where = f"{plan.parquet} could not be written: {error.strerror or error}"
        console.print(f"{where}; the results are in {plan.out}")


def complain(error: HomescopeError, advice: str = "") -> int:
    """One line for a person on standard error, and the exit code that goes with it."""
    request = f"request {error.request_id}" if error.request_id else ""
    parts = [error.message.rstrip("."), advice or _ADVICE.get(type(error), ""), request]
    line = Text.assemble(("error: ", "bold red"), "; ".join(filter(None, parts)))
    Console(stderr=True, highlight=False, soft_wrap=True, markup=False).print(line)
    settled = isinstance(error, ConfigurationError | ConnectionFailed | UnusableImage | LedgerError)
    return UNUSABLE if settled or error.fatal else SOME_FAILED


def _make_folder(out: Path) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"the folder {out.parent} cannot be made: {error.strerror}") from error


def _batch(session: Session, ledger: Ledger, plan: Plan, console: Console) -> Batch:
    def show(record: Record, resumed: bool) -> None:
        if plan.show:
            console.print(_shown(record, plan.expected))

    return Batch(
        session,
        plan.job,
        ledger,
        pace=plan.pace,
        retry=plan.retry,
        keep_going=plan.keep_going,
        retry_failed=plan.retry_failed,
        on_record=show,
    )


def _shown(record: Record, expected: Expected) -> Text:
    words = record.answer if isinstance(record, Done) else record.reason
    verdict = kind(record, expected)
    return Text.assemble((f"{verdict:7}", _COLOURS[verdict]), f" {record.file}  ", (" ".join(words.split()), "dim"))


async def _asked(batch: Batch, plan: Plan, console: Console) -> HomescopeError | None:
    """Runs the batch to its end. What ended it early is returned, so that the results are written all the same."""
    heartbeat = None if plan.heartbeat is None else Heartbeat(plan.heartbeat)
    shown = None if plan.quiet else console
    progress = Progress(batch, shown, plan.count, price=plan.price, heartbeat=heartbeat)
    try:
        with interruptible(batch, lambda: _told(batch, console)):
            if plan.quiet and heartbeat is None:
                await batch.run(plan.questions())
            else:
                async with progress.shown():
                    await batch.run(plan.questions())
    except HomescopeError as error:
        return error
    return None


def _told(batch: Batch, console: Console) -> None:
    if not console.is_terminal:  # the progress bar says it
        console.print(f"stopping: finishing {batch.pace.active} in flight, Ctrl-C again drops them")


def _summary(ledger: Ledger, plan: Plan, console: Console) -> Summary:
    if plan.page is not None:
        try:
            return write_page(plan.page, ledger.records, plan.job, plan.expected)
        except OSError as error:
            console.print(f"the page {plan.page} could not be written: {error.strerror}; the results are in {plan.out}")
    return summarise(ledger.records(), plan.expected)


def _outcome(batch: Batch, summary: Summary, plan: Plan, stopped: HomescopeError | None) -> int:
    totals = batch.totals
    if stopped is not None:
        return UNUSABLE
    if batch.stopping:
        return INTERRUPTED
    if totals.ended == totals.skipped:
        return UNUSABLE
    too_few = plan.min_right is not None and summary.score.share < plan.min_right
    return SOME_FAILED if totals.failed or too_few else 0


def _tell(lines: Iterable[str | Text]) -> None:
    out = Console(highlight=False, soft_wrap=True, markup=False)
    for line in lines:
        out.print(line)


def _lines(
    batch: Batch, summary: Summary, plan: Plan, failures: Sequence[Failed], seconds: float
) -> Iterator[str | Text]:
    totals = batch.totals
    before = f" ({totals.resumed} of them in an earlier run)" if totals.resumed else ""
    counts = f"{totals.done} done, {totals.failed} failed, {totals.skipped} skipped{before}"
    tokens = f"{totals.usage.input_tokens:,} tokens in, {totals.usage.output_tokens:,} out"
    cost = f"; {plan.price.shown(plan.price.of(totals.usage))}" if plan.price else ""
    yield f"{totals.ended} files: {counts}; {duration(seconds)}; {tokens}{cost}"
    yield from (f"failed:  {failure.file}: {failure.reason}" for failure in failures)
    if summary.score.total:
        colour = "green" if summary.score.share >= (plan.min_right or 1) else "red"
        yield Text(f"{summary.score.right}/{summary.score.total} charts read exactly right", style=f"bold {colour}")
    yield from _problems(batch, summary, plan)
    yield f"results: {plan.out}"
    if plan.parquet is not None and plan.parquet.exists():
        yield f"parquet: {plan.parquet}"
    if plan.page is not None and plan.page.exists():
        yield f"page:    {plan.page}"


def _problems(batch: Batch, summary: Summary, plan: Plan) -> Iterator[str]:
    totals, score = batch.totals, summary.score
    if totals.failed and not batch.refused_alike:
        unfit = plan.job.schema is not None and not plan.retry_failed
        yield "run the same command again to ask the failed ones again" + (
            "; with --retry-failed also those whose answer did not fit the schema" if unfit else ""
        )
    if totals.flawed:
        yield f"{totals.flawed} answers are cut off at the token limit or go round in circles: `flaw` in the results"
    if totals.duplicates:
        yield f"{totals.duplicates} repeat an image that was asked about anyway: `duplicate_of` in the results"
    if not (totals.ended or batch.stopping):
        yield "there is no file to ask about: name other sources"
    elif totals.ended == totals.skipped > 0:
        yield f"none of the {totals.skipped} files is an image that can be sent; the reasons are in {plan.out}"
    if len(plan.expected) and totals.ended > totals.skipped and not score.total:
        yield "no known answer for any image: no name in --expected is the end of one of their paths"
    elif plan.min_right is not None and score.share < plan.min_right:
        yield f"fewer than {plan.min_right:.0%} are exactly right"
    if batch.stopping and not batch.refused_alike:
        yield "stopped early: run the same command again to go on, what is answered is not asked again"
