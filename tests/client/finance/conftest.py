from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.finance.reading import FIGURES
from tests.client.documents.drawing import bars, pdf, text
from tests.client.server import Call, Reply, Scripted, answer

READING = {
    "type": "combined",
    "unit": "亿元",
    "years": [2021, 2022, 2023, 2024],
    "values": [82.3, 96.1, 110.4, 121.5],
    "growth": [25.1, 16.8, 14.9, 10.1],
}
WORDS = (
    "2021年82.3（25.1%），2022年96.1（16.8%），2023年110.4（14.9%），2024年121.5（10.1%）。"
    "最近一年增速由14.9%变为10.1%，增长放缓。"
)


def told(call: Call) -> Reply:
    """The answer of a model that reads every chart alike."""
    asked_figures = call.content[-1]["text"] == FIGURES
    return answer(json.dumps(READING, ensure_ascii=False) if asked_figures else WORDS)


@pytest.fixture(scope="module")
def _listening(ring3: None) -> Iterator[Scripted]:
    with Scripted().running() as scripted:
        yield scripted


@pytest.fixture
def model(_listening: Scripted) -> Iterator[Scripted]:
    """A server whose model reads every chart as `READING`."""
    _listening.default = told
    yield _listening
    _listening.gate.set()
    _listening.forget()


@pytest.fixture
def annual(tmp_path: Path) -> Path:
    """An annual report with one chart, on its second page."""
    return pdf(tmp_path / "annual.pdf", text, bars)
