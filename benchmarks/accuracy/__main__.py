"""How right the answers are, and a gate for whatever changes them.

python -m benchmarks.accuracy run charts demo-out/charts --url http://127.0.0.1:8000 --out baseline.jsonl
python -m benchmarks.accuracy run charts demo-out/charts --url http://127.0.0.1:8001 --out candidate.jsonl
python -m benchmarks.accuracy gate baseline.jsonl candidate.jsonl
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import click
import uvloop
from rich.console import Console

from benchmarks.accuracy.datasets import LAYOUTS, SAMPLING, questions
from benchmarks.accuracy.metrics import scored
from benchmarks.accuracy.paired import paired
from benchmarks.commands import explained
from benchmarks.dialects import DIALECTS
from benchmarks.estimates import mean
from benchmarks.generator import Plan, Target
from benchmarks.record import BadRecords, read
from benchmarks.run import Open, Outcome, load


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """ChartQA (relaxed accuracy), DocVQA (ANLS), generated charts; a gate with an exit code."""


@main.command()
@click.argument("layout", type=click.Choice([*LAYOUTS, "lines"]))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--url", default="http://127.0.0.1:8000", show_default=True, help="The server, without a path.")
@click.option("--key", envvar="DASHSCOPE_API_KEY", default="", help="[default: $DASHSCOPE_API_KEY]")
@click.option("--dialect", default="native", show_default=True, type=click.Choice(list(DIALECTS)))
@click.option("--model", default="qwen3-vl-30b-a3b-instruct", show_default=True)
@click.option("--most", type=click.IntRange(1), help="A seeded sample of so many questions.")
@click.option("--seed", default=0, show_default=True)
@click.option("--concurrency", default=8, show_default=True, type=click.IntRange(1))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Raw records with scores, JSON lines.")
def run(
    layout: str, folder: Path, url: str, key: str, dialect: str, model: str, most: int | None, seed: int,
    concurrency: int, out: Path,
) -> None:  # fmt: skip
    """Asks every question once, and scores the answers. Exit code 1: some were not answered."""
    with explained():
        asks = questions(layout, folder, most, seed)
        target = Target(url, DIALECTS[dialect], model, key, SAMPLING)
        facts = {"dataset": layout, "questions": [ask.name for ask in asks], "seed": seed, "sampling": SAMPLING}
        shape = Open([0.0] * len(asks), f"all of {len(asks)}")
        outcome = uvloop.run(load(target, asks, shape, Plan(concurrency, score=scored), facts, _progress, out))
    scores = _scores(outcome)
    reasons = Counter(record.outcome for record in outcome.records if not record.ok)
    found = mean(list(scores.values()))
    interval = "" if found.low is None else f" ({found.low:.1%} to {found.high:.1%})"
    Console().print(f"{layout}: score {found.value:.2%}{interval}; {len(scores)} questions, {_unanswered(reasons)}")
    sys.exit(1 if reasons else 0)


def _unanswered(reasons: Counter[str]) -> str:
    """Questions without an answer count as wrong, so the reader has to know why there are some."""
    why = ", ".join(f"{outcome} {count}" for outcome, count in reasons.most_common())
    return f"{reasons.total()} not answered, which count as wrong: {why}" if reasons else "all answered"


def _progress(outcome: Outcome) -> None:
    Console(stderr=True).print(f"{len(outcome.records):,} ended", end="\r", style="dim")


def _scores(outcome: Outcome) -> dict[str, float]:
    """By question; one without an answer has none right."""
    names = outcome.run["questions"]
    return {names[record.number]: record.score or 0.0 for record in outcome.records}


@main.command()
@click.argument("baseline", type=click.Path(path_type=Path))
@click.argument("candidate", type=click.Path(path_type=Path))
@click.option("--required", default=0.99, show_default=True, help="Share of the baseline's score.")
@click.option("--json", "as_json", type=click.Path(path_type=Path))
def gate(baseline: Path, candidate: Path, required: float, as_json: Path | None) -> None:
    """Compares two runs question by question. Exit code 0: at least as good as required; 1: not."""
    with explained():
        runs = [Outcome(records, head) for head, records in (read(baseline), read(candidate))]
        if any("questions" not in one.run for one in runs):
            raise BadRecords("these are no runs of `accuracy run`")
        try:
            found = paired(_scores(runs[0]), _scores(runs[1]), required)
        except ValueError as error:
            raise BadRecords(str(error)) from error
    if as_json:
        as_json.write_text(
            json.dumps({**asdict(found), "passes": found.passes, "certain": found.certain}, indent=2) + "\n"
        )
    Console().print(
        f"{found.questions} questions: baseline {found.baseline:.2%}, candidate {found.candidate:.2%}, "
        f"ratio {found.ratio.value:.4f} ({found.ratio.low:.4f} to {found.ratio.high:.4f}), "
        f"better on {found.better}, worse on {found.worse}"
    )
    sure = "" if found.certain else "; the interval spans the limit, so more questions would say more"
    Console().print(f"{'passes' if found.passes else 'FAILS'} the limit of {required:.0%}{sure}")
    sys.exit(0 if found.passes else 1)


if __name__ == "__main__":
    main()
