from __future__ import annotations

import asyncio
import ipaddress
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import click
import uvloop

from serving import logs
from serving.access.commands import keys, make_first_key
from serving.allocation import keep_freed
from serving.app import create_app
from serving.console import give_up, read_settings
from serving.doctor.command import doctor
from serving.engine import connection
from serving.engine.base import Engine
from serving.engine.command import engine
from serving.engine.embedded import Embedded
from serving.engine.progress import Progress, State
from serving.engine.replicas import replicas_group
from serving.engine.size_command import size
from serving.processes import command as processes
from serving.server import BadCertificate, CannotListen, Certificate, Server, certificate_of, config_of, listen, url_of
from serving.settings import Settings, SettingsError
from serving.storage.commands import backup, restore
from serving.storage.records.commands import records_group
from serving.webhooks.commands import webhooks_group


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """DashScope at home: the Qwen3-VL API of the cloud, served from this machine."""


@main.command()
@click.option("--host", help="address to listen on")
@click.option("--port", type=int, help="port to listen on; 0 takes a free one")
@click.option("--engine-url", "engine_urls", multiple=True, help="a running vLLM, or several; none starts one")
@click.option("--tls-cert", help="PEM file with the certificate chain, to serve HTTPS")
@click.option("--tls-key", help="PEM file with the certificate's private key")
@click.option("--workers", type=click.IntRange(1, 64), help="processes that serve together; each takes one core")
@click.option("--no-auth", is_flag=True, help="serve whoever asks, without API keys; on a loopback address only")
def run(engine_urls: tuple[str, ...], no_auth: bool, **given: str | int | None) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    chosen = read_settings(**given, engine_urls=engine_urls or None, auth=False if no_auth else None)
    _check_auth(chosen)
    logs.set_up(chosen.log_format, chosen.log_level)
    for url in chosen.engine_urls:
        if not url.startswith(connection.SCHEMES):
            give_up(f"{url} is no address of a vLLM; give one like --engine-url http://127.0.0.1:8001")
    certificate = _certificate(chosen)
    if chosen.workers > 1:
        processes.prepare(chosen, chosen.workers)
    with _listen(chosen) as listener, _listen_for_operators(chosen) as operators:
        secret = make_first_key(chosen) if chosen.auth else None
        if secret:
            click.echo(f"API key, shown this once: {secret}")
        try:
            if chosen.workers > 1:
                _announce(listener, operators, "http" if certificate is None else "https")
                sys.exit(uvloop.run(processes.serve(chosen, listener, operators, chosen.workers, _show)))
            sys.exit(uvloop.run(serve(chosen, listener, operators, certificate=certificate)))
        except SettingsError as error:  # what only shows when the parts are put together, such as a missing library
            give_up(str(error))


main.add_command(keys)
main.add_command(doctor)
main.add_command(engine)
main.add_command(size)
main.add_command(records_group)
main.add_command(backup)
main.add_command(restore)
main.add_command(replicas_group)
main.add_command(webhooks_group)


def _check_auth(chosen: Settings) -> None:
    if chosen.auth:
        return
    if not _is_loopback(chosen.host):
        give_up(
            f"without API keys everybody who reaches {chosen.host} could use this server; take away --no-auth "
            "(HOMESCOPE_AUTH=false), or listen on 127.0.0.1"
        )
    click.echo("homescope-server: WARNING: no API keys are asked for; any program here may do anything", err=True)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _certificate(chosen: Settings) -> Certificate | None:
    try:
        return certificate_of(chosen)
    except BadCertificate as reason:
        give_up(f"{reason}; give others with --tls-cert and --tls-key")


def _listen(chosen: Settings) -> socket.socket:
    try:
        return listen(chosen.host, chosen.port)
    except CannotListen as reason:
        give_up(f"{reason}; choose another with --host and --port")


def _listen_for_operators(chosen: Settings) -> AbstractContextManager[socket.socket | None]:
    if chosen.admin_port is None:
        return nullcontext()
    try:
        return listen(chosen.admin_host, chosen.admin_port)
    except CannotListen as reason:
        give_up(f"{reason}; choose another for operators with HOMESCOPE_ADMIN_HOST and HOMESCOPE_ADMIN_PORT")


def _engine(chosen: Settings, on_progress: Callable[[Progress], None]) -> Engine:
    if chosen.engine_urls:
        return connection.connected(chosen)
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


def _announce(listener: socket.socket, operators: socket.socket | None, scheme: str) -> None:
    click.echo(f"homescope-server: listening on {url_of(listener, scheme)}/api/v1", err=True)
    if operators is not None:
        click.echo(f"homescope-server: for operators {url_of(operators)}/metrics", err=True)


async def serve(
    chosen: Settings,
    listener: socket.socket,
    operators: socket.socket | None = None,
    engine_of: Callable[[Settings, Callable[[Progress], None]], Engine] = _engine,
    certificate: Certificate | None = None,
    *,
    announce: bool = True,
) -> int:
    """Serves until stopped by a signal, or until it is certain that there will be no engine (any more): then a service
    manager can do better than answer 503 for ever. The exit code."""
    failures: list[str] = []
    keep_freed()

    def stop(failure: str) -> None:
        failures.append(failure)
        server.should_exit = True

    def watch(progress: Progress) -> None:
        _show(progress)
        if progress.state is State.FAILED:
            stop(progress.message)

    app = create_app(
        chosen,
        engine_of(chosen, watch),
        on_engine_failure=lambda failure: stop(str(failure)),
        operators=operators,
        stopping=lambda: server.stopping,
    )
    server = Server(config_of(app, chosen, certificate), chosen.stop_delay)
    # uvicorn sets handlers of its own while it serves. Those here take a signal that comes before, and the one that it
    # hands on once it has stopped, which would end the process with the signal's code.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, server.handle_exit)
    if certificate is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, certificate.reload)
    if announce:
        _announce(listener, operators, "http" if certificate is None else "https")
    await server.serve(sockets=[listener])
    for failure in failures[:1]:
        click.echo(f"homescope-server: no engine, so nothing to serve: {failure}", err=True)
    return 1 if failures else 0
