"""`homescope-server webhooks`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import click
from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncEngine

from serving.access.commands import span_of
from serving.access.keys import KeyStore
from serving.console import give_up, read_settings, table, with_database
from serving.jobs.job import Job, State
from serving.jobs.notices import KIND
from serving.jobs.queue import Queue
from serving.jobs.tables import job_of, jobs
from serving.webhooks.secrets import SERVER, Secrets, SecretStore, shown

SHOWN = {"waiting": State.PENDING, "delivered": State.SUCCEEDED, "dead": State.FAILED}
MOST = 1000


@click.group("webhooks")
def webhooks_group() -> None:
    """What is told of tasks and batches that have ended."""


@webhooks_group.command("list")
@click.option("--state", type=click.Choice(list(SHOWN)), help="default: all of the last week")
def list_command(state: str | None) -> None:
    """Show notices, the latest first: to whom, and what became of them."""

    async def found(engine: AsyncEngine) -> list[Job]:
        wanted: list[ColumnElement[bool]] = [jobs.c.kind == KIND]
        wanted += [jobs.c.state == SHOWN[state]] if state else []
        query = select(jobs).where(*wanted).order_by(jobs.c.submitted_at.desc(), jobs.c.id).limit(MOST)
        async with engine.connect() as connection:
            return [job_of(row) for row in await connection.execute(query)]

    rows = [_row(job) for job in with_database(read_settings(), found)]
    click.echo(table(("ID", "SUBMITTED", "STATE", "ATTEMPTS", "EVENT", "KEY", "URL", "LAST FAILURE"), rows))


@webhooks_group.command()
@click.argument("ids", nargs=-1)
@click.option("--dead", is_flag=True, help="all that were given up")
def replay(ids: tuple[str, ...], *, dead: bool) -> None:
    """Send notices again that were given up; a running server does it within a second."""
    if bool(ids) == dead:
        give_up("name the notices to send again, or --dead for all; `homescope-server webhooks list` shows them")
    which = jobs.c.id.in_(ids) if ids else jobs.c.id.is_not(None)
    again = with_database(read_settings(), lambda engine: Queue(engine).again(jobs.c.kind == KIND, which))
    missing = sorted(set(ids) - set(again))
    if missing:
        give_up(f"not given up, or unknown: {', '.join(missing)}; {len(again)} will be sent again")
    click.echo(f"{len(again)} will be sent again")


@webhooks_group.command()
@click.argument("key", default=SERVER)
def secret(key: str) -> None:
    """Print the secret that signs what is told to the URLs of a key (id or prefix), or to the server's own URL."""
    _show(key, lambda store, owner: store.of(owner))


@webhooks_group.command()
@click.argument("key", default=SERVER)
@click.option("--grace", default="24h", show_default=True, help="how long the old secret signs, too: 30m, 24h, 7d")
def rotate(key: str, grace: str) -> None:
    """Print a new secret for a key (id or prefix), or for the server's own URL."""
    given = span_of(grace)
    if given is None:
        give_up(f"--grace {grace} is no span of time; write one like 30m, 24h or 7d")
    seconds = given / timedelta(seconds=1)
    _show(key, lambda store, owner: store.rotate(owner, seconds))


def _show(key: str, use: Any) -> None:
    async def found(engine: AsyncEngine) -> Secrets | None:
        owner = key if key == SERVER else await _owner(engine, key)
        return None if owner is None else await use(SecretStore(engine), owner)

    secrets = with_database(read_settings(), found)
    if secrets is None:
        give_up(f"no one key has the id or prefix {key}; `homescope-server keys list` shows them")
    click.echo(shown(secrets.value))


async def _owner(engine: AsyncEngine, key: str) -> str | None:
    """The id of the one key that is meant."""
    meant = [each.id for each in await KeyStore(engine).all() if key.removesuffix("...") in (each.id, each.prefix)]
    return meant[0] if len(meant) == 1 else None


def _row(job: Job) -> tuple[str, ...]:
    at = datetime.fromtimestamp(job.submitted_at / 1e3, UTC)
    state = next((name for name, state in SHOWN.items() if state is job.state), "running")
    failure = "" if job.failure is None else job.failure.message
    event = job.details["body"]["type"]
    return (
        job.id,
        f"{at:%Y-%m-%d %H:%M}",
        state,
        str(job.attempts),
        event,
        job.caller.name,
        job.details["url"],
        failure,
    )
