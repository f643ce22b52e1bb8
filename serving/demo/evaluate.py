from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from serving.demo import dialogues
from serving.demo.asking import Answer, Query, agreement, ask_server, ask_transformers
from serving.demo.charts import Chart, RendererName, draw_chart, render

QUESTION = "Read all values in this chart as JSON"
FIGURES = ("years", "values", "growth")


@dataclass(frozen=True)
class Item:
    chart: Chart
    image: Image.Image


@dataclass(frozen=True)
class Score:
    """Shares of charts: every figure right; also type and unit right; and by what the charts are."""

    count: int
    exact: float
    whole: float
    figures: float
    by_kind: dict[str, float]
    by_periods: dict[int, float]


def fresh_charts(count: int, seed: int, renderer: RendererName) -> list[Item]:
    rng = random.Random(f"evaluate/{renderer}/{seed}")
    items = []
    for _ in range(count):
        chart = draw_chart(rng)
        items.append(Item(chart, render(chart, rng, renderer)))
    return items


def parsed(text: str) -> dict[str, Any]:
    try:
        answer = json.loads(text)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def all_figures_right(chart: Chart, text: str) -> bool:
    """Years, values and growth are all there, in order and exact."""
    expected, answer = chart.expected(), parsed(text)
    return all(answer.get(name) == expected[name] for name in FIGURES)


def right_figures(chart: Chart, text: str) -> tuple[int, int]:
    expected, answer = chart.expected(), parsed(text)
    right = total = 0
    for name in FIGURES:
        said = answer.get(name)
        said = said if isinstance(said, list) else []
        total += len(expected[name])
        right += sum(a == b for a, b in zip(expected[name], said, strict=False))
    return right, total


def score(charts: Sequence[Chart], texts: Sequence[str]) -> Score:
    exact = [all_figures_right(chart, text) for chart, text in zip(charts, texts, strict=True)]
    whole = [parsed(text) == chart.expected() for chart, text in zip(charts, texts, strict=True)]
    figures = [right_figures(chart, text) for chart, text in zip(charts, texts, strict=True)]
    kinds: dict[str, list[bool]] = {}
    periods: dict[int, list[bool]] = {}
    for chart, right in zip(charts, exact, strict=True):
        kinds.setdefault(chart.kind, []).append(right)
        periods.setdefault(len(chart.periods), []).append(right)
    return Score(
        count=len(charts),
        exact=sum(exact) / len(exact),
        whole=sum(whole) / len(whole),
        figures=sum(right for right, _ in figures) / sum(total for _, total in figures),
        by_kind={kind: round(sum(each) / len(each), 3) for kind, each in sorted(kinds.items())},
        by_periods={count: round(sum(each) / len(each), 3) for count, each in sorted(periods.items())},
    )


@dataclass(frozen=True)
class Examined:
    """A question of one kind, and the one answer that is right."""

    task: str
    query: Query
    expected: str


def examination(items: Sequence[Item], seed: int) -> list[Examined]:
    """One question of every kind about each chart, about each two neighbours, and as many without an image."""
    rng = random.Random(f"examination/{seed}")
    asked: list[Examined] = []
    for place, item in enumerate(items):
        for task in dialogues.TASK_WEIGHTS:
            exchange = dialogues.draw_exchange(item.chart, rng, task)
            asked.append(Examined(task, Query((item.image,), exchange.question), exchange.answer))
        other = items[place - 1]
        both = dialogues.draw_comparison(item.chart, other.chart, rng)
        asked.append(Examined("compare", Query((item.image, other.image), both.question), both.answer))
        refused = dialogues.draw_refusal(rng)
        asked.append(Examined("no image", Query((), refused.question), refused.answer))
    return asked


def by_task(asked: Sequence[Examined], answers: Sequence[Answer]) -> dict[str, float]:
    """Share of answers that are right to the letter, for each kind of question."""
    right: dict[str, list[bool]] = {}
    for each, answer in zip(asked, answers, strict=True):
        right.setdefault(each.task, []).append(answer.text == each.expected)
    return {task: round(sum(marks) / len(marks), 3) for task, marks in right.items()}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m serving.demo.evaluate",
        description="Share of fresh charts whose every figure the model reads right.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--model", type=Path, default=Path(__file__).parent / "model", help="for --transformers")
    parser.add_argument("--renderer", choices=("pillow", "matplotlib", "vega"), default="pillow")
    parser.add_argument("--charts", type=int, default=500)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--url", help="an OpenAI-compatible endpoint, as http://127.0.0.1:8000/v1")
    parser.add_argument("--name", default="demo", help="the model's name at the endpoint")
    parser.add_argument("--key", default="none")
    parser.add_argument("--transformers", action="store_true", help="also, or instead, through transformers")
    parser.add_argument("--tasks", action="store_true", help="ask questions of every kind instead of JSON alone")
    parser.add_argument("--wrong", type=int, default=0, help="print so many wrong answers")
    return parser.parse_args(arguments)


def examine(given: argparse.Namespace, asked: Sequence[Examined]) -> None:
    answers = asyncio.run(ask_server(given.url, given.name, given.key, [each.query for each in asked]))
    print(given.renderer, json.dumps(by_task(asked, answers)))
    wrong = [(each, said) for each, said in zip(asked, answers, strict=True) if said.text != each.expected]
    for each, said in wrong[: given.wrong]:
        print(f"  {each.task}: {each.query.question}\n  expected {each.expected}\n  answered {said.text}")


def main(arguments: Sequence[str] | None = None) -> None:
    given = parse(arguments)
    if not given.url and not given.transformers:
        sys.exit("say whom to ask: --url http://127.0.0.1:8000/v1, --transformers, or both")
    if given.tasks and not given.url:
        sys.exit("--tasks asks a server: name one with --url")
    items = fresh_charts(given.charts, given.seed, given.renderer)
    if given.tasks:
        examine(given, examination(items, given.seed))
        return
    queries = [Query((item.image,), QUESTION) for item in items]
    charts = [item.chart for item in items]
    told: dict[str, list[Answer]] = {}
    if given.url:
        told["server"] = asyncio.run(ask_server(given.url, given.name, given.key, queries))
    if given.transformers:
        told["transformers"] = ask_transformers(given.model, queries)
    for name, answers in told.items():
        print(
            name, given.renderer, json.dumps(dataclasses.asdict(score(charts, [a.text for a in answers]))), flush=True
        )
        wrong = [(c, a) for c, a in zip(charts, answers, strict=True) if not all_figures_right(c, a.text)]
        for chart, answer in wrong[: given.wrong]:
            print(f"  expected {chart.answer()}\n  answered {answer.text}")
    if len(told) == 2:
        print(f"agreement {agreement(told['server'], told['transformers'])}/{len(items)}")


if __name__ == "__main__":
    begun = time.monotonic()
    main()
    print(f"{time.monotonic() - begun:.0f} s")
