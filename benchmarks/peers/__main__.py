"""Gateways side by side before one mock engine.

    python -m benchmarks.peers                                  all of them, everything: about 20 minutes
    python -m benchmarks.peers --only homescope --only vllm-router --what cpu --turns 3

Installs what is missing into .venv/peers, an environment for each (needs uv and a package index).
"""

from __future__ import annotations

import json
import signal
import sys
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import uvloop
from rich.console import Console

from benchmarks.environment import environment
from benchmarks.peers import measure
from benchmarks.peers.stacks import STACKS, CannotInstall, Peer, Stack, install
from benchmarks.peers.table import shown
from benchmarks.processes import NotReady, mock_engine

Save = Callable[[dict[str, Any]], None]


@asynccontextmanager
async def _started(stacks: Sequence[Stack], engine: str, console: Console) -> AsyncGenerator[list[Peer], None]:
    """All that can be had; who cannot is told, and left out."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        peers = []
        for each in stacks:
            try:
                if each.packages:
                    console.print("installing " + " ".join(each.packages), style="dim", markup=False)
                    install(each)
                peers.append(await stack.enter_async_context(each.start(engine, folder)))
            except (CannotInstall, NotReady) as error:
                console.print(f"left out: {error}", style="yellow")
        yield peers


async def _measure(
    stacks: Sequence[Stack], what: Sequence[str], sizes: Sequence[float], turns: int, requests: int, save: Save
) -> dict[str, Any]:
    """Part after part; `save` gets what there is after each, so that an interrupted run keeps its parts."""
    console = Console(stderr=True)
    cases = [case for case in measure.CASES if not sizes or case.megabytes in sizes]
    result: dict[str, Any] = {"stacks": {each.name: [*each.packages, each.note] for each in stacks}, "turns": turns}
    async with mock_engine("--pieces", "1") as (engine, _), _started(stacks, engine, console) as peers:
        for part in what:
            console.print(f"measuring {part}", style="dim")
            key, each = _PARTS[part]
            result[key] = await each(Setting(peers, engine, cases, turns, requests))
            save(result)
    return result


@dataclass(frozen=True)
class Setting:
    """What is measured, on whom."""

    peers: list[Peer]
    engine: str
    cases: list[measure.Case]
    turns: int
    requests: int


async def _cpu(setting: Setting) -> dict[str, Any]:
    return {case.name: await measure.cpu(setting.peers, case, setting.turns) for case in setting.cases}


async def _added(setting: Setting) -> dict[str, Any]:
    return {case.name: await measure.added(setting.peers, case, setting.turns) for case in setting.cases}


async def _events(setting: Setting) -> dict[str, Any]:
    return await measure.events(setting.peers, setting.engine, setting.turns)


async def _half_load(setting: Setting) -> dict[str, Any]:
    chosen = [case for case in setting.cases if not case.stream and case.megabytes <= 1]
    return {case.name: await measure.half_load(setting.peers, case, setting.turns) for case in chosen}


async def _memory(setting: Setting) -> dict[str, Any]:
    return await measure.memory(setting.peers, setting.requests)


_PARTS: dict[str, tuple[str, Callable[[Setting], Awaitable[dict[str, Any]]]]] = {
    "cpu": ("cpu_ms", _cpu),
    "added": ("latency_ms", _added),
    "events": ("events", _events),
    "half-load": ("half_load_ms", _half_load),
    "memory": ("memory", _memory),
}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", multiple=True, type=click.Choice(list(STACKS)), help="Who is compared; the direct way always.")
@click.option("--what", multiple=True, type=click.Choice(list(_PARTS)), help="What is measured.  [default: everything]")
@click.option("--size", "sizes", multiple=True, type=float, help="Megabytes of an image: 0.1, 0.2, 1 or 5.")
@click.option("--turns", default=5, show_default=True, type=click.IntRange(1), help="Of which the median is taken.")
@click.option("--requests", default=1000, show_default=True, help="For memory.")
@click.option("--out", type=click.Path(path_type=Path), help="Result as JSON.")
def main(
    only: Sequence[str], what: Sequence[str], sizes: Sequence[float], turns: int, requests: int, out: Path | None
) -> None:
    """Gateways side by side before one mock engine: CPU, added latency, events a second, memory."""
    stacks = [stack for name, stack in STACKS.items() if not only or name in (*only, "direct")]
    head = environment()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped

    def save(result: dict[str, Any]) -> None:
        if out:
            out.write_text(json.dumps({"benchmark": "peers", "environment": head, **result}, indent=2) + "\n")

    try:
        result = uvloop.run(_measure(stacks, what or list(_PARTS), sizes, turns, requests, save))
    except measure.PeerFailed as error:
        raise click.ClickException(str(error)) from error
    shown(result, Console())


if __name__ == "__main__":
    main()
