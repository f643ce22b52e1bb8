"""Reports through the pipeline: from PDFs to checked series in its database."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from client.finance.pipeline import answer
from client.finance.reading import FIGURES
from client.pipeline.worker import Settings
from tests.client import server as replies
from tests.client.conftest import png
from tests.client.finance.conftest import READING
from tests.client.pipeline.conftest import QUESTION, put, session, settings, worked
from tests.client.server import Call, Scripted

__all__ = ["settings"]
REPORT = replace(QUESTION, kind="report", prompt="")


@pytest.mark.timeout(90)
async def test_a_report_through_the_pipeline(model: Scripted, settings: Settings, annual: Path) -> None:
    submitted = await put(settings, [str(annual)], REPORT)
    assert (submitted.items, submitted.refused) == (1, [])
    assert await worked(settings, model) == 1
    async with settings.store() as store:
        (row,) = [row async for row in store.rows()]
    assert row.state == "done"
    assert row.record is not None
    value = row.record.value  # type: ignore[union-attr]
    assert [point["value"] for point in value["series"]["points"]] == READING["values"]
    assert value["series"]["points"][0]["amount"] == pytest.approx(82.3e8)
    assert value["series"]["currency"] == "CNY"
    assert [flag["message"] for flag in value["series"]["flags"]] == [
        "the chart's unit is 亿元, its caption says CNY million"
    ]
    assert value["words"].startswith("2021年")
    assert value["alerts"] == []
    assert len(model.calls) == 2
    assert await worked(settings, model) == 0, "read once"


async def test_figures_stand_without_words(model: Scripted) -> None:
    falling = json.dumps(READING | {"growth": [25.1, 19.8, 14.9, 10.1]})

    def figures_alone(call: Call) -> replies.Reply:
        asked = call.content[-1]["text"] == FIGURES
        return replies.answer(falling) if asked else replies.refusal(500, "InternalError", "no")

    model.default = figures_alone
    async with session(model) as asking:
        done = await answer(asking, replace(REPORT, prompt="图1 营业收入（单位：亿元）"), png(1), "once")
    assert (done.value["series"]["measure"], done.value["words"]) == ("营业收入", "")
    assert [alert["label"] for alert in done.value["alerts"]] == ["重点关注"]
    assert done.usage.total_tokens == 110
