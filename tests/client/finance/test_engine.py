"""From a generated report to its figures, through the whole server and the real engine."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from client.finance.rules import read_rules
from client.finance.store import Store
from client.finance.work import Options, Read, Reports, Unread
from client.pace import Pace
from client.samples import write_reports
from client.session import Session
from serving.access.keys import KeyStore
from serving.app import create_app
from serving.engine.vllm import VLLM
from serving.settings import Settings
from serving.storage import database
from tests.conftest import ENGINE_STARTS_WITHIN_S
from tests.serving.conftest import listening

pytestmark = [pytest.mark.engine, pytest.mark.timeout(ENGINE_STARTS_WITHIN_S + 240)]


@pytest.fixture
async def session(engine_url: str, engine_key: str, tmp_path: Path) -> AsyncGenerator[Session, None]:
    data = tmp_path / "data"
    records = database.at(data)
    await database.create_tables(records, data)
    key = await KeyStore(records).create("test")
    await database.close(records)
    app = create_app(Settings(data=data), VLLM(engine_url, key=engine_key))
    async with listening(app) as url, Session(url, key) as session:
        yield session


async def test_most_charts_of_a_report_are_read_to_the_last_digit(session: Session, tmp_path: Path) -> None:
    """The demo model reads some 19 charts of 20: one of four may be wrong here."""
    (path,) = write_reports(tmp_path / "reports", 1, 41)
    known = json.loads(path.with_suffix(".json").read_text("utf-8"))["figures"]
    events: list[Read | Unread] = []
    async with Store.opened(f"sqlite:///{tmp_path / 'r.db'}") as store:
        options = Options(tmp_path / "figures", read_rules(), with_words=False)
        await Reports(session, store, options, Pace(2), events.append).run([path])
    read = {tuple(point.value for point in event.series.points) for event in events if isinstance(event, Read)}
    charts = [tuple(figure["expected"]["values"]) for figure in known if figure["kind"] == "chart"]
    assert len(charts) == 4
    assert len([chart for chart in charts if chart in read]) >= 3
