"""Unmodified clients against the real engine: what they are told can be a right or a wrong reading of a chart."""

from __future__ import annotations

import io
import itertools
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from anyio.from_thread import start_blocking_portal

from serving.demo.charts import Chart, draw_chart, render
from serving.demo.dialogues import REFUSALS, draw_comparison
from serving.engine.vllm import VLLM
from serving.settings import MODEL_NAMES
from tests.conformance.clients.driver import Seen
from tests.conformance.material import Material, lines
from tests.conformance.process import Driver
from tests.conformance.target import MODEL, Target, local
from tests.conftest import ENGINE_STARTS_WITHIN_S
from tests.serving.wire import data_uri

QUESTION = "Read all values in this chart as JSON"
CHARTS = 12
SCHEMA = {
    "type": "object",
    "properties": {
        "type": {"enum": ["bar", "line", "combined"]},
        "unit": {"type": "string"},
        "years": {"type": "array", "items": {"type": "integer"}},
        "values": {"type": "array", "items": {"type": "number"}},
        "growth": {"type": "array", "items": {"type": "number"}},
    },
    "required": ["type", "unit", "years", "values", "growth"],
    "additionalProperties": False,
}
FLOWS = {
    "requests": ("chat", "stream", "cumulative", "two images", "JSON schema"),
    "dashscope-2.0": (
        *("chat", "stream", "cumulative", "async", "async stream", "text path", "image URL", "local file"),
        *("two images", "tools", "tools stream", "JSON", "tokens"),
    ),
    "dashscope-v2": ("chat", "stream", "async stream", "JSON schema"),
    "openai": (
        *("chat", "stream", "async stream", "text path", "image URL", "two images", "tools", "tools stream"),
        *("JSON", "JSON schema", "batch"),
    ),
}
CELLS = [(client, flow) for client, flows in FLOWS.items() for flow in flows]

pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(ENGINE_STARTS_WITHIN_S + 30),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@dataclass(frozen=True)
class Reading:
    """What the engine says of one chart, or of two, when it is asked without a server between: `tokens` in and out."""

    chart: Chart
    picture: bytes
    text: str
    tokens: list[int]


@dataclass(frozen=True)
class Readings:
    first: Reading
    second: Reading
    comparison: str
    verdict: Reading

    @property
    def material(self) -> Material:
        more = {
            "json_prompt": QUESTION,
            "schema": SCHEMA,
            "tool_choice": {"type": "function", "function": {"name": "get_revenue"}},
        }
        content = _content([self.first.picture], QUESTION)
        pictures = (self.first.picture, self.second.picture)
        return Material(*pictures, QUESTION, self.comparison, lines(MODEL, content), more)


@pytest.fixture(scope="session")
def readings(engine_url: str, engine_key: str) -> Readings:
    """Two charts that the model reads rightly, and compares rightly: it misreads some, and which ones depends on the
    fonts that this machine draws them with."""
    with httpx.Client(headers={"authorization": f"Bearer {engine_key}"}, timeout=60) as engine:

        def said(charts: Sequence[tuple[Chart, bytes]], question: str) -> Reading:
            content = _content([picture for _, picture in charts], question)
            body = {"model": MODEL_NAMES[0], "messages": [{"role": "user", "content": content}]}
            told = engine.post(f"{engine_url}/chat/completions", json=body).raise_for_status().json()
            tokens = [told["usage"]["prompt_tokens"], told["usage"]["completion_tokens"]]
            return Reading(*charts[0], told["choices"][0]["message"]["content"], tokens)

        read = [said([(chart, picture)], QUESTION) for chart, picture in _drawn()]
        right = [reading for reading in read if reading.text == reading.chart.answer()]
        assert len(right) > CHARTS / 2, [reading.text for reading in read]
        for number, (first, second) in enumerate(itertools.pairwise(right)):
            asked = draw_comparison(first.chart, second.chart, random.Random(number))
            verdict = said([(first.chart, first.picture), (second.chart, second.picture)], asked.question)
            if verdict.text == asked.answer:
                return Readings(first, second, asked.question, verdict)
    raise AssertionError("no two charts are compared rightly")


def _drawn() -> Iterator[tuple[Chart, bytes]]:
    rng = random.Random(2026)
    for _ in range(CHARTS):
        chart = draw_chart(rng)
        buffer = io.BytesIO()
        render(chart, rng).save(buffer, "PNG")
        yield chart, buffer.getvalue()


def _content(pictures: Sequence[bytes], question: str) -> list[dict[str, Any]]:
    images = [{"type": "image_url", "image_url": {"url": data_uri(picture)}} for picture in pictures]
    return [*images, {"type": "text", "text": question}]


@pytest.fixture(scope="session")
def over_engine(
    readings: Readings, engine_url: str, engine_key: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    app = local(tmp_path_factory.mktemp("over-engine"), VLLM(engine_url, key=engine_key), readings.material)
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(app) as target:
        yield target


@pytest.mark.parametrize(("client", "flow"), CELLS, ids=[f"{name}-{flow}".replace(" ", "-") for name, flow in CELLS])
def test_reading(
    client: str, flow: str, driver: Callable[[str], Driver], over_engine: Target, readings: Readings
) -> None:
    CHECKS[flow](driver(client).run(flow, over_engine.asks), readings)


def read(seen: Seen, readings: Readings) -> None:
    """The very text and the very tokens that the engine alone says, however it is asked."""
    _says(seen, readings.first)


def streamed(seen: Seen, readings: Readings) -> None:
    read(seen, readings)
    assert len([piece for piece in seen["pieces"] if piece]) > 1
    assert "".join(seen["pieces"]) == readings.first.text


def grew(seen: Seen, readings: Readings) -> None:
    read(seen, readings)
    assert len(seen["pieces"]) > 1
    assert all(later.startswith(sooner) for sooner, later in itertools.pairwise(seen["pieces"]))


def compared(seen: Seen, readings: Readings) -> None:
    _says(seen, readings.verdict)


def imageless(seen: Seen, _: Readings) -> None:
    assert seen["text"] in REFUSALS.values()
    assert seen["finish"] == "stop"


def structured(seen: Seen, readings: Readings) -> None:
    assert json.loads(seen["text"]) == readings.first.chart.expected()
    assert seen["finish"] == "stop"
    assert seen["tokens"][0] == readings.first.tokens[0]


def called(seen: Seen, _: Readings) -> None:
    """The call that was asked for, held to its schema, by a model that has learned nothing of calls."""
    (call,) = seen["calls"]
    assert (call["name"], seen["called"]) == ("get_revenue", "tool_calls")
    assert call["id"]
    assert 1900 <= json.loads(call["arguments"])["year"] <= 2100


def counted(seen: Seen, _: Readings) -> None:
    assert seen["ids"] == seen["pieces"] == seen["tokens"] > 0


def worked_through(seen: Seen, readings: Readings) -> None:
    assert (seen["last"], seen["counts"]) == ("completed", {"total": 3, "completed": 2, "failed": 1})
    bodies = [json.loads(line)["response"]["body"] for line in seen["output"]]
    assert [body["choices"][0]["message"]["content"] for body in bodies] == [readings.first.text] * 2
    usages = [[body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]] for body in bodies]
    assert usages == [readings.first.tokens] * 2


def _says(seen: Seen, reading: Reading) -> None:
    assert seen["text"] == reading.text
    assert seen["finish"] == "stop"
    assert seen["tokens"] == reading.tokens


CHECKS: dict[str, Callable[[Seen, Readings], None]] = {
    **dict.fromkeys(("chat", "async", "image URL", "local file"), read),
    **dict.fromkeys(("stream", "async stream"), streamed),
    **dict.fromkeys(("JSON", "JSON schema"), structured),
    **dict.fromkeys(("tools", "tools stream"), called),
    "cumulative": grew,
    "two images": compared,
    "text path": imageless,
    "tokens": counted,
    "batch": worked_through,
}
