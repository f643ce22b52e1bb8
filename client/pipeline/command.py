from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import click

from client.addresses import API_KEY_NAME, BASE_URL_NAME
from client.errors import ConfigurationError, HomescopeError
from client.models import DEFAULT_MODEL, to_json
from client.pipeline.kinds import KINDS, answering
from client.pipeline.models import Counts, Work
from client.retry import Policy
from client.session import DEFAULT_TIMEOUT, Prepare, Session
from client.structured import read_schema

_POLICY = Policy(attempts=3, throttled_attempts=5)
"""Inside one try of an item; the pipeline tries again by itself."""


def _placed(command: Callable[..., None]) -> Callable[..., None]:
    """Options that every command of a pipeline has. Addresses hold passwords, which a list of processes shows."""
    options = [
        click.option("--data", type=click.Path(file_okay=False, path_type=Path), default=Path("homescope-pipeline"),
                     show_default=True, help="Folder of everything that is not named by an URL."),
        click.option("--broker", default="", envvar="PIPELINE_BROKER",
                     help="nats://, amqp:// or kafka://.  [default: $PIPELINE_BROKER, or one of its own]"),
        click.option("--database", default="", envvar="PIPELINE_DATABASE",
                     help="postgresql://...  [default: $PIPELINE_DATABASE, or a file in --data]"),
        click.option("--images", default="", envvar="PIPELINE_IMAGES",
                     help="s3://bucket/prefix.  [default: $PIPELINE_IMAGES, or a folder in --data]"),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@click.group()
def pipeline() -> None:
    """Documents through a queue: submit them, let workers answer, look at what has become of them."""


@pipeline.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--prompt", default="", help="The question about every page.")
@click.option("--kind", type=click.Choice(sorted(KINDS)), default="ask", show_default=True, help="Who answers.")
@click.option("--figures", is_flag=True, help="Ask about figures and tables of PDFs instead of pages.")
@click.option("--schema", type=click.Path(path_type=Path), help="JSON Schema that the answers have to fit.")
@click.option("--model", default=DEFAULT_MODEL, show_default=True, help="A model that the server knows.")
@click.option("--redact", is_flag=True, help="Mask personal data before an image is stored.")
@_placed
def submit(
    sources: Sequence[str], prompt: str, kind: str, figures: bool, schema: Path | None, model: str, redact: bool,
    **place: Any,
) -> None:  # fmt: skip
    """Puts PDFs and images into the pipeline. Submitting the same again adds nothing."""
    with _explained():
        if kind == "ask" and not prompt:
            raise ConfigurationError("--prompt is missing: what is asked about every page?")
        answering(kind)
        asked = None if schema is None else read_schema(schema)
        question = Work("", "", 0, "", kind, prompt, model, asked, prepared="redacted" if redact else "")
        sys.exit(_run(_submit(list(sources), question, figures, redact, place)))


@asynccontextmanager
async def _prepare(redact: bool, data: Path) -> AsyncIterator[Prepare | None]:
    if not redact:
        yield None
        return
    from client.redaction import Redactor

    async with Redactor(audit=data / "redactions.jsonl") as redactor:
        yield redactor.prepare


async def _submit(sources: list[str], question: Work, figures: bool, redact: bool, place: Mapping[str, Any]) -> int:
    from client.pipeline.submit import submit as put
    from client.sources import check_sources

    check_sources(sources)
    settings = _settings(place)
    async with settings.store() as store, _prepare(redact, settings.data) as prepare:
        told = await put(sources, question, store, settings.image_store(), figures=figures, prepare=prepare)
    for name, reason in told.refused or []:
        click.echo(f"not submitted: {name}: {reason}", err=True)
    click.echo(f"{told.new} new of {told.items} items in {told.documents} documents; homescope pipeline work does them")
    return 1 if told.refused else 0


@pipeline.command()
@click.option("--concurrency", type=click.IntRange(1, 256), default=4, show_default=True, help="Items at a time.")
@click.option("--until-empty", is_flag=True, help="End when everything submitted has ended.")
@click.option("--tries", type=click.IntRange(1, 100), default=5, show_default=True, help="Before an item is given up.")
@click.option("--lease", type=click.FloatRange(min=1), default=60.0, show_default=True,
              help="Seconds after which what a dead worker had is taken by another.")  # fmt: skip
@click.option("--window", type=click.IntRange(1, 10_000), default=16, show_default=True,
              help="Items of one document underway: the fewer, the fairer.")  # fmt: skip
@click.option("--base-url", help=f"The server, with its /api/v1.  [default: ${BASE_URL_NAME}]")
@click.option("--api-key", help=f"The key.  [default: ${API_KEY_NAME}]")
@click.option("--timeout", default=DEFAULT_TIMEOUT, show_default=True, type=click.FloatRange(min=0.1),
              help="Seconds without a byte from the server before giving up.")  # fmt: skip
@click.option("--heartbeat", type=click.Path(dir_okay=False, path_type=Path),
              help="A file touched each second while broker and database answer, for probes.")  # fmt: skip
@_placed
def work(
    concurrency: int, until_empty: bool, tries: int, lease: float, window: int, base_url: str | None,
    api_key: str | None, timeout: float, heartbeat: Path | None, **place: Any,
) -> None:  # fmt: skip
    """Answers what was submitted; start it as often as you like, on as many machines as reach the same places.

    Ctrl-C or SIGTERM: takes nothing new, finishes what is asked, ends. Exit code 0: stopped, or all done with
    --until-empty, 1: some of it failed, 2: something to put right first.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with _explained():
        settings = _settings(place, lease=lease, tries=tries, window=window)
        sys.exit(_run(_work(settings, concurrency, until_empty, (base_url, api_key, timeout), heartbeat)))


async def _work(
    settings: Any, concurrency: int, until_empty: bool, server: tuple[Any, Any, float], heartbeat: Path | None
) -> int:  # fmt: skip
    from client.pipeline.worker import Worker

    base_url, api_key, timeout = server
    async with Session(base_url, api_key, timeout=timeout, retry=_POLICY) as session:
        worker = Worker(settings, session, concurrency, heartbeat)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, worker.stop)
        ended = await worker.run(until_empty=until_empty)
    async with settings.store() as store:
        counts = await store.counts()
    click.echo(f"{ended} items ended here; {_sentence(counts)}", err=True)
    return 1 if until_empty and any(each.failed or each.dead for each in counts) else 0


@pipeline.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@_placed
def status(as_json: bool, **place: Any) -> None:
    """Counts of every document, and how deep the queue is."""
    with _explained():
        sys.exit(_run(_status(_settings(place), as_json)))


async def _status(settings: Any, as_json: bool) -> int:
    async with settings.store() as store:
        counts = await store.counts()
    depth = await _depth(settings)
    if as_json:
        documents = {each.document: _states(each) for each in counts}
        click.echo(json.dumps({"documents": documents, "queue": depth}, ensure_ascii=False))
        return 0
    width = max([len("document"), *(len(each.document) for each in counts)])
    names = ("waiting", "queued", "running", "done", "failed", "dead")
    click.echo("  ".join([f"{'document':{width}}", *(f"{name:>7}" for name in names)]))
    for each in counts:
        click.echo("  ".join([f"{each.document:{width}}", *(f"{getattr(each, name):>7}" for name in names)]))
    if depth is not None:
        click.echo(f"in the broker: {depth['work']} not acknowledged, {depth['dead']} dead letters")
    return 0


def _states(counts: Counts) -> dict[str, int]:
    return {name: getattr(counts, name) for name in ("waiting", "queued", "running", "done", "failed", "dead")}


async def _depth(settings: Any) -> dict[str, int] | None:
    """Of a broker that runs; one's own runs while there are workers."""
    from client.pipeline.brokers import queue
    from client.pipeline.embedded import reachable

    url = settings.broker or await reachable(settings.data / "broker")
    if not url:
        return None
    looked = queue(url, patience=settings.lease)
    await looked.start()
    try:
        found = await looked.depth()
    finally:
        await looked.stop()
    return None if found is None else {"work": found[0], "dead": found[1]}


@pipeline.command()
@click.option("--out", type=click.File("w", encoding="utf-8", lazy=True), default="-", help="JSON lines.")
@_placed
def results(out: Any, **place: Any) -> None:
    """Every item with its state and answer, document by document, as JSON lines."""
    with _explained():
        sys.exit(_run(_results(_settings(place), out)))


async def _results(settings: Any, out: Any) -> int:
    async with settings.store() as store:
        async for row in store.rows():
            line = {"document": row.work.document, "label": row.work.label, "state": row.state, "tries": row.tries}
            if row.reason:
                line["reason"] = row.reason
            if row.record is not None:
                line["record"] = json.loads(to_json(row.record))
            out.write(json.dumps(line, ensure_ascii=False) + "\n")
    return 0


@pipeline.command()
@_placed
def retry(**place: Any) -> None:
    """Puts what failed or was given up back into the queue, with all its tries."""
    with _explained():
        sys.exit(_run(_retry(_settings(place))))


async def _retry(settings: Any) -> int:
    async with settings.store() as store:
        click.echo(f"{await store.revive()} items wait again")
    return 0


def _settings(place: Mapping[str, Any], **more: Any) -> Any:
    try:
        from client.pipeline.worker import Settings
    except ImportError as error:
        raise ConfigurationError("the pipeline needs pip install 'homescope[pipeline,documents]'") from error
    return Settings(**place, **more)


def _sentence(counts: Sequence[Counts]) -> str:
    totals = {name: sum(getattr(each, name) for each in counts) for name in ("done", "failed", "dead")}
    left = sum(each.total - each.ended for each in counts)
    return ", ".join([*(f"{number} {name}" for name, number in totals.items()), f"{left} left"])


def _run(work: Coroutine[Any, Any, int]) -> int:
    try:
        return asyncio.run(work)
    except (KeyboardInterrupt, asyncio.CancelledError):
        click.echo("interrupted", err=True)
        return 130


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except HomescopeError as error:
        with suppress(BrokenPipeError):
            click.echo(f"error: {error.message}", err=True)
        sys.exit(2)
