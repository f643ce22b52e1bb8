"""`homescope-server engine`: the engine alone, for a machine or a container of its own."""

from __future__ import annotations

import os
import shlex

import click

from serving.console import give_up, read_settings
from serving.engine import hardware
from serving.engine.launch import check, environment_of
from serving.engine.plan import LaunchError, plan


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="address to listen on")
@click.option("--port", default=8001, show_default=True, type=click.IntRange(1, 65535), help="port to listen on")
@click.option("--print", "show", is_flag=True, help="print the command that would be run, and run nothing")
def engine(host: str, port: int, show: bool) -> None:
    """Become the vLLM that fits this machine, for gateways elsewhere: HOMESCOPE_MODEL names another model.

    With VLLM_API_KEY in the environment it asks for that key.
    """
    chosen = read_settings()
    try:
        planned = plan(hardware.detect(), model=chosen.model, served_names=chosen.served_models)
        check(planned)
    except LaunchError as error:
        give_up(str(error))
    command = [*planned.argv, "--host", host, "--port", str(port)]
    if show:
        click.echo(shlex.join(command))
        return
    click.echo(f"homescope-server: {planned.summary}, on http://{host}:{port}", err=True)
    os.execve(command[0], command, environment_of(planned))  # noqa: S606 - it is to be this process
