"""`homescope-server doctor`."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeAlias

import click

from serving import settings
from serving.doctor import engines, machine, stores
from serving.doctor.finding import Finding
from serving.settings import Settings, SettingsError

Check: TypeAlias = Callable[[Settings], Awaitable[Finding | list[Finding]]]

CHECKS: tuple[Check, ...] = (
    machine.versions,
    machine.clock,
    machine.data_folder,
    machine.port,
    machine.open_files,
    machine.memory,
    machine.accelerator,
    stores.database,
    stores.object_store,
    stores.counters,
    stores.cache,
    engines.engines,
    engines.request,
)
WITHIN = 150.0
"""Seconds for one check: the longest is a whole request."""


@click.command()
@click.option("--engine-url", "engine_urls", multiple=True, help="a running vLLM, or several")
def doctor(engine_urls: tuple[str, ...]) -> None:
    """Look at everything that the server needs, and say what to change."""
    try:
        chosen = settings.load(**({"engine_urls": engine_urls} if engine_urls else {}))
    except SettingsError as error:
        click.echo(Finding("fail", "settings", str(error)))
        sys.exit(1)
    click.echo(Finding("ok", "settings", "each name is known and each value fits"))
    logging.disable()  # each failure is told once, as a finding
    try:
        sys.exit(asyncio.run(_tell(chosen)))
    finally:
        logging.disable(logging.NOTSET)


async def _tell(chosen: Settings) -> int:
    failed = 0
    async for finding in examined(chosen):
        click.echo(finding)
        failed += finding.level == "fail"
    return 1 if failed else 0


async def examined(chosen: Settings) -> AsyncGenerator[Finding, None]:
    for check in CHECKS:
        try:
            async with asyncio.timeout(WITHIN):
                found = await check(chosen)
        except Exception as error:  # a check that breaks is a finding, too, and the others go on
            name = check.__name__.replace("_", " ")
            found = Finding("fail", name, f"could not be checked: {type(error).__name__}: {error}")
        for finding in found if isinstance(found, list) else [found]:
            yield finding
