from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import uvloop
from rich.console import Console

from benchmarks import arrivals, capacity, drills
from benchmarks.accuracy.metrics import METRICS, scored
from benchmarks.connection import BadTarget
from benchmarks.dialects import DIALECTS
from benchmarks.drills import DRILLS
from benchmarks.environment import environment
from benchmarks.findings import Finding
from benchmarks.generator import Plan, Target
from benchmarks.page import report_page
from benchmarks.processes import NotReady
from benchmarks.record import BadRecords, Record, read
from benchmarks.report import BadObjective, Objective, Report, report
from benchmarks.run import Closed, Open, Outcome, load
from benchmarks.terminal import shown
from benchmarks.workload import PRESETS, Ask, BadWorkload, Workload, read_lines

_MISTAKES = (BadTarget, BadWorkload, BadRecords, BadObjective, arrivals.BadSchedule, NotReady, OSError)
_console = Console(stderr=True)


@contextmanager
def explained() -> Iterator[None]:
    """A user's mistake is one line, never a traceback; TaskGroups wrap what happens within them."""
    try:
        yield
    except* _MISTAKES as group:
        raise click.ClickException(str(group.exceptions[0])) from group


@dataclass(frozen=True)
class Source:
    """What is asked, and what a report says of it."""

    asks: Iterable[Ask]
    facts: dict[str, Any]
    objective: str


def _target(command: Callable[..., None]) -> Callable[..., None]:
    options = [
        click.option("--url", default="http://127.0.0.1:8000", show_default=True, help="The server, without a path."),
        click.option("--key", envvar="DASHSCOPE_API_KEY", default="", help="[default: $DASHSCOPE_API_KEY]"),
        click.option("--dialect", default="native-sse", show_default=True, type=click.Choice(list(DIALECTS))),
        click.option("--model", default="qwen3-vl-30b-a3b-instruct", show_default=True),
        click.option("--parameter", "extra", multiple=True, metavar="NAME=JSON", help="A parameter of each request."),
        click.option("--preset", type=click.Choice(list(PRESETS)), help="A known workload with its objective."),
        click.option("--workload", "lines", type=click.Path(path_type=Path), help="Requests of your own, JSON lines."),
        click.option("--kind", default="chart", show_default=True, type=click.Choice(["chart", "page", "noise"])),
        click.option("--size", default="640x640", show_default=True, help="Pixels of each image."),
        click.option("--images", default=1, show_default=True, type=click.IntRange(0), help="In each request."),
        click.option("--repeated", default=0.0, type=click.FloatRange(0, 1), help="Share of images seen before."),
        click.option("--prompt-tokens", default=0, help="Length of the question."),
        click.option("--output-tokens", default=128, show_default=True, help="Most tokens of an answer."),
        click.option("--seed", default=0, show_default=True),
        click.option("--objective", help="Such as ttft<=2s,tpot<=0.1s or e2e<=12s."),
        click.option("--share", default=0.99, show_default=True, help="Of the requests that have to meet it."),
        click.option("--limit", type=click.IntRange(1), help="Requests in flight at most; others wait."),
        click.option("--timeout", default=300.0, show_default=True, help="Seconds until a request is given up."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@dataclass(frozen=True)
class Setup:
    """The shared options, understood."""

    target: Target
    source: Source
    objective: Objective
    plan: Plan
    seed: int

    @classmethod
    def of(cls, given: dict[str, Any]) -> Setup:
        """Raises BadWorkload, BadObjective."""
        extra = {name: _json(value) for name, _, value in (each.partition("=") for each in given["extra"])}
        source = _source(given)
        return cls(
            Target(given["url"], DIALECTS[given["dialect"]], given["model"], given["key"], extra),
            source,
            Objective.parsed(given["objective"] or source.objective, given["share"]),
            Plan(given["limit"], given["timeout"], score=scored),
            given["seed"],
        )


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _source(given: dict[str, Any]) -> Source:
    if given["lines"]:
        asks = read_lines(given["lines"])
        unknown = {ask.metric for ask in asks if ask.metric} - METRICS.keys()
        if unknown:
            raise BadWorkload(f"{given['lines']}: no such metric: {', '.join(sorted(unknown))}")
        return Source(asks, {"workload": str(given["lines"]), "requests": len(asks), "seed": given["seed"]}, "")
    if given["preset"]:
        workload, objective = PRESETS[given["preset"]]
        workload = replace(workload, seed=given["seed"])
    else:
        width, height = _size(given["size"])
        numbers = {name: given[name] for name in ("images", "repeated", "prompt_tokens", "output_tokens", "seed")}
        workload, objective = Workload(given["kind"], width, height, **numbers), ""
    return Source(workload.asks(), {"workload": workload, "preset": given["preset"], "seed": given["seed"]}, objective)


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and 32 <= int(width) <= 16384 and 32 <= int(height) <= 16384):
        raise BadWorkload(f"{text!r} is no size like 1280x1664, from 32 to 16384 pixels")
    return int(width), int(height)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Load tests of servers that read images. benchmarks/README.md says what each number means."""


@main.command("load")
@_target
@click.option("--arrivals", "words", default="poisson:1", show_default=True, help="constant:5, poisson:5, step:2,4,8, "
              "ramp:1-10, trace:FILE, or closed:8 for users who wait.")  # fmt: skip
@click.option("--seconds", default=60.0, show_default=True, type=click.FloatRange(0.1))
@click.option("--records", type=click.Path(path_type=Path), help="Raw records, JSON lines.")
@click.option("--json", "as_json", type=click.Path(path_type=Path), help="The report as JSON.")
@click.option("--page", type=click.Path(path_type=Path), help="The report as one HTML file.")
def load_command(
    words: str, seconds: float, records: Path | None, as_json: Path | None, page: Path | None, **given: Any
) -> None:
    """Runs one load. Exit code 0: valid and the objective is met; 1: not."""
    with explained():
        setup = Setup.of(given)
        shape = _shape(words, seconds, setup.seed)
        outcome = uvloop.run(
            load(setup.target, setup.source.asks, shape, setup.plan, setup.source.facts, _progress, records)
        )
        sys.exit(_told(outcome.records, outcome.run, setup.objective, as_json, page))


def _shape(words: str, seconds: float, seed: int) -> Open | Closed:
    if not words.startswith("closed:"):
        return Open(arrivals.parsed(words, seconds, seed), words)
    users = words.removeprefix("closed:")
    if not (users.isdecimal() and int(users)):
        raise arrivals.BadSchedule(f"{words!r} is not of the form closed:8")
    return Closed(int(users), seconds)


def _progress(outcome: Outcome) -> None:
    failed = sum(not record.ok for record in outcome.records)
    _console.print(f"{len(outcome.records):,} ended, {failed:,} failed", end="\r", style="dim")


def _told(
    records: list[Record], run: dict[str, Any], objective: Objective, as_json: Path | None, page: Path | None
) -> int:
    if not records:
        raise click.ClickException("no request was due in that time; a longer --seconds or a higher rate has some")
    made = report(records, run, objective)
    if as_json:
        as_json.write_text(json.dumps({"run": run, **made.to_dict()}, indent=2, default=str) + "\n")
    if page:
        page.write_text(report_page(made, records, run), "utf-8")
    shown(made, run, Console())
    return 0 if made.meets and not made.invalid else 1


@main.command("report")
@click.argument("records", type=click.Path(path_type=Path))
@click.option("--objective", default="", help="Such as ttft<=2s,tpot<=0.1s.")
@click.option("--share", default=0.99, show_default=True)
@click.option("--json", "as_json", type=click.Path(path_type=Path))
@click.option("--page", type=click.Path(path_type=Path))
def report_command(records: Path, objective: str, share: float, as_json: Path | None, page: Path | None) -> None:
    """Makes a report of raw records anew, under the same or another objective."""
    with explained():
        run, found = read(records)
        sys.exit(_told(found, run, Objective.parsed(objective, share), as_json, page))


@main.command("capacity")
@_target
@click.option("--low", default=0.5, show_default=True, type=click.FloatRange(0.001), help="First rate, requests/s.")
@click.option("--high", default=1024.0, show_default=True, help="Highest rate that is tried.")
@click.option("--seconds", default=30.0, show_default=True, help="Of each trial.")
@click.option("--precision", default=0.05, show_default=True)
@click.option("--json", "as_json", type=click.Path(path_type=Path))
@click.option("--page", type=click.Path(path_type=Path))
def capacity_command(
    low: float, high: float, seconds: float, precision: float, as_json: Path | None, page: Path | None, **given: Any
) -> None:
    """Searches the highest rate of Poisson arrivals that meets the objective. Exit code 1: none does."""

    async def trial(rate: float) -> Report:
        shape = Open(arrivals.poisson(rate, seconds, setup.seed), f"poisson:{rate:g}")
        outcome = await load(setup.target, setup.source.asks, shape, setup.plan, setup.source.facts)
        made = report(outcome.records, outcome.run, setup.objective)
        word = "INVALID" if made.invalid else "meets" if made.meets else "misses"
        _console.print(f"{rate:8.3g} requests/s: {word} ({made.good_share:.1%} good)")
        return made

    with explained():
        setup = Setup.of(given)
        found = uvloop.run(capacity.search(trial, low, high, precision))
    head = {"benchmark": "capacity", "environment": environment(), "url": setup.target.url}
    if as_json:
        as_json.write_text(json.dumps(head | found.to_dict(), indent=2, default=str) + "\n")
    if page:
        page.write_text(capacity.capacity_page(found, "Capacity"), "utf-8")
    Console().print(f"highest rate that meets {setup.objective}: [bold]{found.highest:.3g}[/] requests/s")
    sys.exit(0 if found.highest else 1)


@main.command("drill")
@click.argument("name", type=click.Choice(list(DRILLS)))
@click.option("--rate", default=25.0, show_default=True, type=click.FloatRange(5), help="Requests/s.")
@click.option("--seconds", default=30.0, show_default=True, type=click.FloatRange(9))
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "as_json", type=click.Path(path_type=Path))
@click.option("--page", type=click.Path(path_type=Path))
def drill_command(name: str, rate: float, seconds: float, seed: int, as_json: Path | None, page: Path | None) -> None:
    """Breaks something under load, and shows what requests saw. Exit code 1: not all is as it should be."""
    with explained():
        finding, outcome = uvloop.run(drills.drill(DRILLS[name], rate, seconds, seed))
    if as_json:
        as_json.write_text(json.dumps({"run": outcome.run, **finding.to_dict()}, indent=2, default=str) + "\n")
    if page:
        page.write_text(report_page(report(outcome.records, outcome.run), outcome.records, outcome.run), "utf-8")
    _tell_drill(finding)
    sys.exit(0 if finding.as_expected else 1)


def _tell_drill(finding: Finding) -> None:
    console = Console()
    for name, part in (("before", finding.before), ("during", finding.during), ("after", finding.after)):
        outcomes = ", ".join(f"{outcome} {count}" for outcome, count in part.outcomes.items())
        console.print(f"{name:8} answered {part.ok}/{part.requests}, {_p99(part)}{outcomes}")
    for check in finding.checks:
        console.print(
            f"[green]as expected[/]  {check.words}" if check.met else f"[bold red]NOT MET[/]      {check.words}"
        )


def _p99(part: Report) -> str:
    if not part.ok:
        return ""
    due, sent = (part.latencies[name].percentiles["p99"].value for name in ("e2e", "e2e_from_send"))
    return f"p99 {due:.2f} s from when they were due, {sent:.2f} s from the send; "
