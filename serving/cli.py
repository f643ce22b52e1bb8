from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, TypeVar

import click
import uvicorn
import uvloop
from sqlalchemy.exc import DatabaseError

from serving import logs, settings
from serving.access.keys import KeyStore
from serving.app import create_app
from serving.engine.base import Engine
from serving.engine.embedded import Embedded
from serving.engine.progress import Progress, State
from serving.engine.vllm import VLLM
from serving.settings import Settings, SettingsError
from serving.storage import database

T = TypeVar("T")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """DashScope at home: the Qwen3-VL API of the cloud, served from this machine."""


@main.command()
@click.option("--host", help="address to listen on")
@click.option("--port", type=int, help="port to listen on; 0 takes a free one")
@click.option("--engine-url", "engine_urls", multiple=True, help="a running vLLM; without one, one is started")
def run(host: str | None, port: int | None, engine_urls: tuple[str, ...]) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    chosen = _settings(host=host, port=port, engine_urls=engine_urls or None)
    logs.set_up(chosen.log_format, chosen.log_level)
    if len(chosen.engine_urls) > 1:
        _give_up("one engine is served per server; start one homescope-server for each --engine-url")
    for url in chosen.engine_urls:
        if not url.startswith(("http://", "https://")):
            _give_up(f"{url} is no address of a vLLM; give one like --engine-url http://127.0.0.1:8001")
    with _listen(chosen) as listener:
        secret = _with_keys(chosen, _first_key)
        if secret:
            click.echo(f"API key, shown this once: {secret}")
        sys.exit(uvloop.run(_serve(chosen, listener)))


@main.group()
def keys() -> None:
    """API keys."""


@keys.command()
@click.option("--name", required=True, help="whose key it is; appears in the log line of each request")
def create(name: str) -> None:
    """Print a new key, once."""
    if not name.isprintable() or not 0 < len(name) <= 200:
        _give_up("a key's name is 1 to 200 printable characters")
    click.echo(_with_keys(_settings(), lambda store: store.create(name)))


@keys.command("list")
def list_keys() -> None:
    """Show id, prefix, name, creation and revocation of every key."""
    for key in _with_keys(_settings(), lambda store: store.all()):
        state = f"revoked {key.revoked_at:%Y-%m-%d %H:%M}" if key.revoked_at else "active"
        click.echo(f"{key.id}  {key.prefix}...  {key.created_at:%Y-%m-%d %H:%M}  {state}  {key.name}")


@keys.command()
@click.argument("id_or_prefix")
def revoke(id_or_prefix: str) -> None:
    """Revoke the key with this id or prefix; a running server follows within seconds."""
    revoked = _with_keys(_settings(), lambda store: store.revoke(id_or_prefix.removesuffix("...")))
    if not revoked:
        _give_up(f"no active key has the id or prefix {id_or_prefix}; `homescope-server keys list` shows them")
    for key in revoked:
        click.echo(f"revoked {key.id} ({key.name})")


def _settings(**overrides: Any) -> Settings:
    try:
        return settings.load(**{name: value for name, value in overrides.items() if value is not None})
    except SettingsError as error:
        _give_up(str(error))


def _give_up(message: str) -> NoReturn:
    """One line for a mistake of the person at the keyboard, and exit code 2."""
    click.echo(f"homescope-server: {message}", err=True)
    sys.exit(2)


def _with_keys(chosen: Settings, use: Callable[[KeyStore], Coroutine[Any, Any, T]]) -> T:
    """Runs `use` on the keys in the data folder."""

    async def open_and_use() -> T:
        records = database.at(chosen.data)
        try:
            await database.create_tables(records, chosen.data)
            return await use(KeyStore(records))
        finally:
            await records.dispose()

    try:
        return asyncio.run(open_and_use())
    except (OSError, DatabaseError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error.__cause__ or error)
        _give_up(f"cannot keep state in {chosen.data}: {reason}; set HOMESCOPE_DATA to a folder that can be written")


async def _first_key(store: KeyStore) -> str | None:
    """A key if there has never been one."""
    return None if await store.all() else await store.create("first")


def _listen(chosen: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in chosen.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((chosen.host, chosen.port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        where = f"{chosen.host}:{chosen.port}"
        _give_up(f"cannot listen on {where}: {error.strerror}; choose another with --host and --port")
    return listener


def _engine(chosen: Settings, on_progress: Callable[[Progress], None]) -> Engine:
    if chosen.engine_urls:
        key = chosen.engine_key.get_secret_value() if chosen.engine_key else None
        return VLLM(chosen.engine_urls[0], key=key)
    return Embedded(
        model=chosen.model,
        served_names=chosen.served_models,
        log_dir=chosen.data / "logs",
        on_progress=on_progress,
    )


def _show(progress: Progress) -> None:
    """How far the engine's start has come, for whoever waits for it."""
    of = f" of about {progress.expected_s:.0f} s" if progress.state is State.STARTING else ""
    click.echo(f"engine: {progress.message} ({progress.elapsed_s:.0f} s{of})", err=True)


async def _serve(
    chosen: Settings,
    listener: socket.socket,
    engine_of: Callable[[Settings, Callable[[Progress], None]], Engine] = _engine,
) -> int:
    """Serves until stopped by a signal, or until it is certain that there will be no engine (any more): then a service
    manager can do better than answer 503 for ever. The exit code."""
    failures: list[str] = []

    def stop(failure: str) -> None:
        failures.append(failure)
        server.should_exit = True

    def watch(progress: Progress) -> None:
        _show(progress)
        if progress.state is State.FAILED:
            stop(progress.message)

    config = uvicorn.Config(
        create_app(chosen, engine_of(chosen, watch), on_engine_failure=lambda failure: stop(str(failure))),
        http="httptools",
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=chosen.drain_timeout,
    )
    server = uvicorn.Server(config)
    # uvicorn sets handlers of its own while it serves. Those here take a signal that comes before, and the one that it
    # hands on once it has stopped, which would end the process with the signal's code.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, server.handle_exit)
    address, port = listener.getsockname()[:2]
    host = f"[{address}]" if ":" in address else address
    click.echo(f"homescope-server: listening on http://{host}:{port}/api/v1", err=True)
    await server.serve(sockets=[listener])
    for failure in failures[:1]:
        click.echo(f"homescope-server: no engine, so nothing to serve: {failure}", err=True)
    return 1 if failures else 0
