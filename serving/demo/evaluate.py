from __future__ import annotations

import argparse
import asyncio
import base64
import dataclasses
import io
import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from serving.demo.charts import Chart, RendererName, draw_chart, render
from serving.demo.pixels import fitted_size

QUESTION = "Read all values in this chart as JSON"
MOST_TOKENS = 256
FIGURES = ("years", "values", "growth")


@dataclass(frozen=True)
class Item:
    chart: Chart
    image: Image.Image


@dataclass(frozen=True)
class Answer:
    text: str
    tokens: tuple[int, ...]


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


def data_uri(image: Image.Image) -> str:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


async def ask_server(url: str, model: str, key: str, items: Sequence[Item], concurrency: int = 8) -> list[Answer]:
    """Greedy answers of an OpenAI-compatible server. vLLM adds the tokens' ids, others leave them empty."""
    gate = asyncio.Semaphore(concurrency)

    async def ask(item: Item) -> Answer:
        image = {"type": "image_url", "image_url": {"url": data_uri(item.image)}}
        message = {"role": "user", "content": [image, {"type": "text", "text": QUESTION}]}
        body = {
            "model": model,
            "messages": [message],
            "temperature": 0,
            "max_tokens": MOST_TOKENS,
            "return_token_ids": True,
        }
        async with gate:
            reply = await client.post(f"{url.rstrip('/')}/chat/completions", json=body)
        reply.raise_for_status()
        choice = reply.json()["choices"][0]
        return Answer(choice["message"]["content"], tuple(choice.get("token_ids") or ()))

    async with httpx.AsyncClient(timeout=600, headers={"Authorization": f"Bearer {key}"}) as client:
        return list(await asyncio.gather(*(ask(item) for item in items)))


def ask_transformers(folder: Path, items: Sequence[Item], batch: int = 24) -> list[Answer]:
    """Greedy answers of the transformers class. Images of one size share a batch, so that nothing is padded."""
    import torch

    from serving.engine import vision_operators

    vision_operators.define_missing()
    from transformers import AutoProcessor, Qwen3VLMoeForConditionalGeneration

    model = Qwen3VLMoeForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16).eval()
    processor: Any = AutoProcessor.from_pretrained(folder)
    answers: dict[int, Answer] = {}
    for places in same_size(items, batch):
        content = [[{"type": "image", "image": items[i].image}, {"type": "text", "text": QUESTION}] for i in places]
        chats = [[{"role": "user", "content": parts}] for parts in content]
        inputs = processor.apply_chat_template(
            chats, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        with torch.no_grad():
            grown = model.generate(**inputs, max_new_tokens=MOST_TOKENS, do_sample=False)
        for place, tokens in zip(places, grown[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
            kept = until_end(tokens, model.config.text_config.eos_token_id)
            answers[place] = Answer(processor.tokenizer.decode(kept, skip_special_tokens=True), tuple(kept))
    return [answers[i] for i in range(len(items))]


def until_end(tokens: list[int], end: int) -> list[int]:
    """Tokens up to and including `end`: a batch goes on until its last answer ends."""
    return tokens[: tokens.index(end) + 1] if end in tokens else tokens


def same_size(items: Sequence[Item], batch: int) -> Iterator[list[int]]:
    groups: dict[tuple[int, int], list[int]] = {}
    for place, item in enumerate(items):
        groups.setdefault(fitted_size(*item.image.size), []).append(place)
    for places in groups.values():
        for start in range(0, len(places), batch):
            yield places[start : start + batch]


def agreement(one: Sequence[Answer], other: Sequence[Answer]) -> int:
    """How many answers are the same token for token, or letter for letter where a side gave no tokens."""
    return sum(
        a.tokens == b.tokens if a.tokens and b.tokens else a.text == b.text for a, b in zip(one, other, strict=True)
    )


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
    parser.add_argument("--wrong", type=int, default=0, help="print so many wrong answers")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    given = parse(arguments)
    if not given.url and not given.transformers:
        sys.exit("say whom to ask: --url http://127.0.0.1:8000/v1, --transformers, or both")
    items = fresh_charts(given.charts, given.seed, given.renderer)
    charts = [item.chart for item in items]
    told: dict[str, list[Answer]] = {}
    if given.url:
        told["server"] = asyncio.run(ask_server(given.url, given.name, given.key, items))
    if given.transformers:
        told["transformers"] = ask_transformers(given.model, items)
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
