from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from client.addresses import API_KEY_NAME, BASE_URL_NAME
from client.compare_command import compare_command
from client.errors import ConfigurationError, HomescopeError
from client.finance.command import report_command
from client.limits import Limits, Quota, default_path
from client.limits import published as published_quota
from client.manifests import is_manifest
from client.models import DEFAULT_MODEL, Answer, Job
from client.pace import Pace
from client.pipeline.command import pipeline
from client.prices import Price
from client.prices import published as published_price
from client.redaction import PREPARED
from client.redaction.command import redact, redacting
from client.retry import Policy
from client.scoring import Expected
from client.session import DEFAULT_TIMEOUT, ImageInput, Session
from client.sources import check_sources
from client.structured import read_schema, validated
from client.tables import check_parquet
from client.terminal import INTERRUPTED, Plan, complain, foretell, run

_PATIENCE = Policy(attempts=3, throttled_attempts=5, longest_retry_after=15.0)
"""Of someone who waits for one answer before a silent terminal."""


@dataclass(frozen=True, slots=True)
class _Server:
    base_url: str | None
    api_key: str | None
    timeout: float

    redact: bool = False
    audit: Path | None = None

    @asynccontextmanager
    async def session(self, retry: Policy) -> AsyncIterator[Session]:
        async with (
            redacting(self.redact, self.audit) as prepare,
            Session(self.base_url, self.api_key, timeout=self.timeout, retry=retry, prepare=prepare) as session,
        ):
            yield session


class _Concurrency(click.ParamType[Pace]):
    name = "auto|N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Pace:
        if isinstance(value, Pace):
            return value
        if value == "auto":
            return Pace.auto()
        if not (value.isdecimal() and 0 < int(value) <= 1000):
            self.fail(f"{value!r} is neither auto nor a number from 1 to 1000", param, ctx)
        return Pace(int(value))


def _parameters(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> dict[str, Any]:
    """`temperature=0` and the like; a value that is JSON is taken as JSON."""
    parameters: dict[str, Any] = {}
    for value in values:
        name, separator, given = value.partition("=")
        if not (name and separator):
            raise click.BadParameter(f"{value!r} is not of the form NAME=VALUE", ctx, param)
        try:
            parameters[name] = json.loads(given)
        except ValueError:
            parameters[name] = given
    return parameters


def _price(ctx: click.Context, param: click.Parameter, value: str | None) -> Price | None:
    try:
        return None if value is None else Price.parse(value)
    except ConfigurationError as error:
        raise click.BadParameter(error.message, ctx, param) from error


def _words(ctx: click.Context, param: click.Parameter, value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise click.BadParameter(
            "it holds bytes that are not UTF-8; check the terminal's encoding", ctx, param
        ) from error
    return value


def _shared(command: Callable[..., None]) -> Callable[..., None]:
    """Options that every command which asks has."""
    options = [
        click.option("--model", default=DEFAULT_MODEL, show_default=True, help="A model that the server knows."),
        click.option("--schema", type=click.Path(path_type=Path), help="JSON Schema that the answer has to fit."),
        click.option(
            "--parameter", "parameters", multiple=True, metavar="NAME=VALUE", callback=_parameters,
            help="A generation parameter, such as temperature=0. Repeatable.",
        ),
        click.option("--base-url", help=f"The server, with its /api/v1.  [default: ${BASE_URL_NAME}]"),
        click.option("--api-key", help=f"The key.  [default: ${API_KEY_NAME}]"),
        click.option(
            "--timeout", default=DEFAULT_TIMEOUT, show_default=True, type=click.FloatRange(min=0.1),
            help="Seconds without a byte from the server before giving up.",
        ),
        click.option("--redact", is_flag=True, help="Mask personal data in the images before they are sent."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Ask Qwen3-VL about images, on your own machines or in the cloud."""


@main.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--prompt", required=True, callback=_words, help="The question.")
@_shared
@click.option("--stream", is_flag=True, help="Print the answer as it is spoken.")
def ask(
    images: Sequence[str], prompt: str, model: str, schema: Path | None, parameters: dict[str, Any],
    base_url: str | None, api_key: str | None, timeout: float, redact: bool, stream: bool,
) -> None:  # fmt: skip
    """One question about one or more images (files or URLs); the answer goes to standard output."""
    server = _Server(base_url, api_key, timeout, redact)
    with _explained():
        job = Job(prompt, model, None if schema is None else read_schema(schema), parameters)
        sys.exit(_run(_ask(server, [_image(image) for image in images], job, stream)))


@main.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option(
    "--prompt",
    default="",
    callback=_words,
    help="The question. For a manifest a template, with its columns in braces; its own column prompt comes first.",
)
@_shared
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="Results, JSON lines.")
@click.option("--concurrency", type=_Concurrency(), default="auto", show_default=True, help="Requests in flight.")
@click.option("--expected", type=click.Path(path_type=Path), help="Known answers, JSON lines of file and expected.")
@click.option("--min-right", type=click.FloatRange(0, 1), help="Exit with 1 when a smaller share is exactly right.")
@click.option(
    "--page", type=click.Path(dir_okay=False, path_type=Path), help="Results as one self-contained HTML file."
)
@click.option("--show", is_flag=True, help="Print each answer as it comes.")
@click.option("--quiet", is_flag=True, help="Print nothing unless something is wrong.")
@click.option("--keep-going", is_flag=True, help="Go on even when the first images are all refused alike.")
@click.option("--retry-failed", is_flag=True, help="Ask those again whose answer did not fit the schema.")
@click.option("--parquet", type=click.Path(dir_okay=False, path_type=Path), help="Results as a table, too.")
@click.option("--dry-run", is_flag=True, help="Say what would be asked, and what it takes and costs; send nothing.")
@click.option(
    "--heartbeat", type=click.Path(dir_okay=False, path_type=Path), help="Counts as JSON, replaced every 5 seconds."
)
@click.option("--price", callback=_price, metavar="IN:OUT[:CUR]", help="What a million tokens cost, as 0.15:1.5:CNY.")
@click.option("--rpm", type=click.FloatRange(min=0, min_open=True), help="Requests per minute, for all runs together.")
@click.option("--tpm", type=click.FloatRange(min=0, min_open=True), help="Tokens per minute, for all runs together.")
@click.option(
    "--deadline", type=click.FloatRange(min=0, min_open=True), help="Seconds after which an image is not asked again."
)
def batch(
    sources: Sequence[str], prompt: str, model: str, schema: Path | None, parameters: dict[str, Any],
    base_url: str | None, api_key: str | None, timeout: float, redact: bool, out: Path, concurrency: Pace,
    expected: Path | None, min_right: float | None, page: Path | None, show: bool, quiet: bool, keep_going: bool,
    retry_failed: bool, parquet: Path | None, dry_run: bool, heartbeat: Path | None, price: Price | None,
    rpm: float | None, tpm: float | None, deadline: float | None,
) -> None:  # fmt: skip
    """A question about every image of folders, files, patterns, PDFs, URLs, buckets and manifests.

    Running it again goes on where it was: what is answered is not asked again. Exit code 0: all done, 1: some failed,
    2: nothing to do or something to put right first, 130: interrupted.
    """
    with _explained():
        if min_right is not None and expected is None:
            raise ConfigurationError("--min-right needs --expected: which answers are right?")
        if not prompt and not any(is_manifest(source) for source in sources):
            raise ConfigurationError("no --prompt: what is the question?")
        if parquet is not None:
            check_parquet()
        check_sources(sources)
        address = base_url or os.environ.get(BASE_URL_NAME, "")
        quota = Quota(rpm, tpm) if rpm or tpm else published_quota(address, model)
        plan = Plan(
            sources=sources, out=out, pace=concurrency, page=page, min_right=min_right, quiet=quiet, show=show,
            job=Job(
                prompt, model, None if schema is None else read_schema(schema), parameters,
                prepared=PREPARED if redact else "",
            ),
            expected=Expected({}) if expected is None else Expected.read(expected),
            own=[path for path in (page, expected, schema) if path is not None],
            keep_going=keep_going, retry_failed=retry_failed, parquet=parquet, heartbeat=heartbeat,
            price=price or published_price(address, model), retry=Policy(deadline=deadline),
        )  # fmt: skip
        if dry_run:
            sys.exit(foretell(plan, quota))
        audit = out.with_name(out.name + ".redactions.jsonl") if redact else None
        sys.exit(_run(_batch(_Server(base_url, api_key, timeout, redact, audit), plan, quota)))


main.add_command(pipeline)
main.add_command(redact)
main.add_command(compare_command)
main.add_command(report_command)


def _run(work: Coroutine[Any, Any, int]) -> int:
    try:
        return asyncio.run(work)
    except (KeyboardInterrupt, asyncio.CancelledError):
        click.echo("interrupted", err=True)
        return INTERRUPTED


@contextmanager
def _explained() -> Iterator[None]:
    """A user's mistake is one line and an exit code, never a traceback."""
    try:
        yield
    except HomescopeError as error:
        sys.exit(complain(error))


def _image(given: str) -> ImageInput:
    return given if given.startswith(("http://", "https://", "data:", "oss://")) else Path(given)


async def _ask(server: _Server, images: list[ImageInput], job: Job, stream: bool) -> int:
    async with server.session(_PATIENCE) as session:
        if stream:
            answer = await _spoken(session, images, job)
        else:
            answer = await session.ask(
                images, job.prompt, model=job.model, schema=job.schema, parameters=job.parameters
            )
            shown = answer.text if job.schema is None else json.dumps(answer.value, ensure_ascii=False, indent=2)
            click.echo(shown)
    if answer.finish_reason == "length":
        click.echo("note: the answer was cut off at the token limit", err=True)
    return 0


async def _spoken(session: Session, images: list[ImageInput], job: Job) -> Answer:
    pieces = session.stream(images, job.prompt, model=job.model, schema=job.schema, parameters=job.parameters)
    text = ""
    async with aclosing(pieces):
        async for piece in pieces:
            text += piece.text
            click.echo(piece.text, nl=False)
    click.echo()
    answer = Answer(text, piece.finish_reason or "", piece.usage, piece.request_id, job.model)
    if job.schema is not None:
        validated(answer, job.schema)
    return answer


async def _batch(server: _Server, plan: Plan, quota: Quota) -> int:
    async with server.session(Policy()) as session:
        if not quota:
            return await run(session, plan)
        with closing(Limits(quota, default_path(), (session.base_url, session.account, plan.job.model))) as limits:
            plan.pace.limits = limits
            return await run(session, plan)
