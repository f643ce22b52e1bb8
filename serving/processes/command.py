"""`homescope-server run --workers N`."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack, asynccontextmanager

import click

from serving import ops
from serving.console import give_up
from serving.engine import hardware
from serving.engine.drained import Drained
from serving.engine.launch import Launcher, free_port
from serving.engine.plan import LaunchError, plan
from serving.engine.progress import Progress, State
from serving.engine.replicas import routes_of
from serving.processes.operators import Operators
from serving.processes.share import check, environment, share
from serving.processes.supervisor import Supervisor, Worker
from serving.server import listen
from serving.settings import Settings, SettingsError


async def serve(
    chosen: Settings,
    listener: socket.socket,
    operators: socket.socket | None,
    processes: int,
    show: Callable[[Progress], None],
) -> int:
    """As many processes on one socket, with one engine between them. The exit code."""
    with ExitStack() as sockets:

        def worker(number: int) -> Worker:
            return Worker(number, sockets.enter_context(listen("127.0.0.1", 0)) if operators is not None else None)

        launcher = None if chosen.engine_urls else _launcher(chosen, lambda progress: watch(progress))
        told = _told(chosen, launcher, processes)
        patience = chosen.stop_delay + chosen.drain_timeout
        workers = [worker(number) for number in range(1, processes + 1)]
        supervisor = Supervisor(listener, workers, environment(told, os.environ), patience=patience)

        def watch(progress: Progress) -> None:
            show(progress)
            if progress.state is State.FAILED:
                supervisor.fail(f"no engine, so nothing to serve: {progress.message}")

        told_of = Operators(supervisor)
        routes = [*told_of.probes(), *routes_of(told_of.replicas, Drained(chosen.data))]
        async with _engine(launcher, supervisor), ops.admin(operators, routes, told_of.metrics):
            code = await supervisor.run()
    if supervisor.failure is not None:
        click.echo(f"homescope-server: {supervisor.failure}", err=True)
    return code


def prepare(chosen: Settings, processes: int) -> None:
    """Says what several processes cannot do, before anything starts."""
    try:
        for words in check(chosen):
            click.echo(f"homescope-server: {processes} workers: {words}", err=True)
    except SettingsError as error:
        give_up(str(error))


def _launcher(chosen: Settings, on_progress: Callable[[Progress], None]) -> Launcher:
    try:
        planned = plan(hardware.detect(), model=chosen.model, served_names=chosen.served_models)
        return Launcher(planned, log_dir=chosen.data / "logs", on_progress=on_progress, port=free_port())
    except LaunchError as error:
        give_up(str(error))


def _told(chosen: Settings, launcher: Launcher | None, processes: int) -> Settings:
    """What the workers take for their settings. The operators' port is not theirs: each has a private one."""
    changes: dict[str, object] = {**share(chosen, processes)}
    if launcher is not None:
        changes |= {"engine_urls": (launcher.base_url,), "engine_key": launcher.api_key}
        changes |= {} if chosen.engine_processor else {"engine_processor": launcher.plan.folder}
    return chosen.model_copy(update=changes)


@asynccontextmanager
async def _engine(launcher: Launcher | None, supervisor: Supervisor) -> AsyncGenerator[None, None]:
    """Starts while the workers do, and ends after them."""
    if launcher is None:
        yield
        return

    async def start() -> None:
        try:
            await launcher.start()
        except LaunchError as error:
            supervisor.fail(f"no engine, so nothing to serve: {error}")

    starting = asyncio.create_task(start())
    try:
        yield
    finally:
        await asyncio.wait([starting])
        await launcher.aclose()
