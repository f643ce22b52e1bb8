"""Qwen3-VL-30B-A3B on one H100 or H200 against what the GPU could do at most.

    python -m benchmarks.gpu --profile bf16 --profile fp8 --out h200.json        starts vLLM itself (extra engine-gpu)
    python -m benchmarks.gpu --url http://127.0.0.1:8000 --model Qwen/...        a server that runs
    python -m benchmarks.gpu --embedded --seconds 20                             no GPU: the same run, end to end

Images are unique and the prefix cache is off. --dummy starts with random weights, and the result says so.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import click
import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.commands import explained
from benchmarks.dialects import DIALECTS
from benchmarks.environment import environment
from benchmarks.generator import Target
from benchmarks.gpu.bounds import GPUS, SHAPES, Gpu, Shape, jobs_per_second
from benchmarks.gpu.profiles import ENVIRONMENT, PROFILES, Profile
from benchmarks.processes import free_port, homescope, started, until_ready
from benchmarks.report import report
from benchmarks.run import Closed, load
from benchmarks.workload import Workload

_console = Console(stderr=True)


@asynccontextmanager
async def _vllm(profile: Profile, dummy: bool) -> AsyncGenerator[Target, None]:
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *profile.command(port, dummy)]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "vllm.log"
        with started(command, ENVIRONMENT, log) as process:
            await until_ready(f"http://127.0.0.1:{port}/health", process, log, within=1800)
            yield _running(f"http://127.0.0.1:{port}", profile.model, "")


@asynccontextmanager
async def _embedded() -> AsyncGenerator[Target, None]:
    async with homescope(None) as (url, key, _):
        yield Target(url, DIALECTS["native-sse"], "qwen3-vl-30b", key)


def _running(url: str, model: str, key: str) -> Target:
    # Answers of the stated length, whatever the model would rather say.
    return Target(url, DIALECTS["compatible-sse"], model, key, {"ignore_eos": True})


async def _shape(target: Target, shape: Shape, users: int, seconds: float) -> dict[str, Any]:
    """One shape with so many users."""
    work = Workload("page", shape.width, shape.height, prompt_tokens=shape.text, output_tokens=shape.output, seed=users)
    outcome = await load(target, work.asks(), Closed(users, seconds), facts={"workload": work})
    if not outcome.records:
        raise OSError("not one request was sent in that time; take more --seconds")
    made = report(outcome.records, outcome.run)
    latency = {
        name: {q: round(each.value, 4) for q, each in made.latencies[name].percentiles.items()}
        for name in ("ttft", "tpot", "e2e")
        if name in made.latencies
    }
    rates = {name: round(value, 3) for name, value in made.rates.items()}
    failed = {name: count for name, count in made.outcomes.items() if name != "ok"}
    return {"shape": shape.name, "users": users, "rates": rates, "latency_s": latency, "failed": failed}


async def _measured(
    target: Target, shapes: Sequence[Shape], users: Sequence[int], seconds: float, gpu: Gpu | None, fp8: bool
) -> list[dict[str, Any]]:
    rows = []
    for shape in shapes:
        for count in users:
            row = await _shape(target, shape, count, seconds)
            if gpu is not None:
                row["bound"] = round(jobs_per_second(gpu, shape, count, fp8), 2)
            _console.print(f"{shape.name}, {count} users: {row['rates']['requests']:.2f} requests/s", style="dim")
            rows.append(row)
    return rows


async def _all(
    profiles: Sequence[Profile], url: str, model: str, key: str, embedded: bool, dummy: bool,
    shapes: Sequence[Shape], users: Sequence[int], seconds: float, gpu: Gpu | None,
) -> dict[str, list[dict[str, Any]]]:  # fmt: skip
    if url:
        target = _running(url, model, key)
        return {url: await _measured(target, shapes, users, seconds, gpu, "FP8" in model)}
    if embedded:
        async with _embedded() as target:
            return {"embedded": await _measured(target, shapes, users, seconds, None, False)}
    found = {}
    for profile in profiles:
        _console.print(f"starting vLLM: {profile.name}", style="dim")
        async with _vllm(profile, dummy) as target:
            found[profile.name] = await _measured(target, shapes, users, seconds, gpu, profile.fp8)
    return found


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--profile", "names", multiple=True, type=click.Choice(list(PROFILES)), help="[default: bf16 and fp8]")
@click.option("--url", default="", help="A server that runs, without a path.")
@click.option("--model", default=PROFILES["bf16"].model, show_default=True, help="For --url.")
@click.option("--key", envvar="DASHSCOPE_API_KEY", default="", help="For --url.")
@click.option("--embedded", is_flag=True, help="The server's own small engine on the CPU: small shapes, no bounds.")
@click.option("--dummy", is_flag=True, help="Random weights.")
@click.option("--gpu", "gpu_name", default="H200", show_default=True, type=click.Choice(list(GPUS)), help="For bounds.")
@click.option("--users", default="1,64,128,256", show_default=True, help="Requests in flight.")
@click.option("--seconds", default=120.0, show_default=True, help="Of each.")
@click.option("--out", type=click.Path(path_type=Path), help="Result as JSON.")
def main(
    names: Sequence[str], url: str, model: str, key: str, embedded: bool, dummy: bool, gpu_name: str, users: str,
    seconds: float, out: Path | None,
) -> None:  # fmt: skip
    """Shapes of work against the bounds of the GPU."""
    counts = [int(each) for each in users.split(",")]
    shapes = list(SHAPES.values())
    if embedded:
        shapes, counts = [Shape("small", 320, 320, 10, 32), Shape("prefill", 320, 320, 10, 1)], [1, 4]
    profiles = [PROFILES[name] for name in names or ("bf16", "fp8")]
    with explained():
        found = uvloop.run(_all(profiles, url, model, key, embedded, dummy, shapes, counts, seconds, GPUS[gpu_name]))
    weights = "random" if dummy else "true"
    result = {
        "benchmark": "gpu",
        "environment": environment(),
        "bounds_of": gpu_name,
        "weights": weights,
        "runs": found,
    }
    if out:
        out.write_text(json.dumps(result, indent=2) + os.linesep)
    _shown(found)


def _shown(found: dict[str, list[dict[str, Any]]]) -> None:
    table = Table(title="Requests a second, and the share of what is possible", title_justify="left")
    for column in (
        "profile",
        "shape",
        "users",
        "requests/s",
        "bound",
        "share",
        "images/s",
        "TTFT p50",
        "TPOT p50",
        "e2e p99",
    ):
        table.add_column(column, justify="right" if column not in ("profile", "shape") else "left")
    for name, rows in found.items():
        for row in rows:
            rate, bound, latency = row["rates"]["requests"], row.get("bound"), row["latency_s"]
            share = ("", "") if bound is None else (f"{bound:.1f}", f"{rate / bound:.0%}")
            cells = [f"{latency[key][q] * 1e3:,.0f} ms" if key in latency else "" for key, q in _CELLS]
            table.add_row(
                name, row["shape"], str(row["users"]), f"{rate:.2f}", *share, f"{row['rates']['images']:.2f}", *cells
            )
    Console().print(table)
    if any(row["rates"]["requests"] > row.get("bound", math.inf) for rows in found.values() for row in rows):
        Console().print("More than the bound: another GPU than --gpu says, or answers shorter than were asked for.")


_CELLS = (("ttft", "p50"), ("tpot", "p50"), ("e2e", "p99"))

if __name__ == "__main__":
    main()
