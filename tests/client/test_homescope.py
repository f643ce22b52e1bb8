"""The client against this project's own server: real sockets, real key store; only the model's words are scripted."""

from __future__ import annotations

import io
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from PIL import Image

from client import errors
from client.batch import Batch
from client.ledger import Ledger
from client.models import Job
from client.pace import Pace
from client.retry import ONCE, Policy
from client.session import Session
from client.sources import walk
from serving.access.keys import KeyStore
from serving.app import create_app
from serving.errors import EngineUnavailable
from serving.settings import Settings
from serving.storage import database
from tests.client.conftest import Folder, png
from tests.fakes import FakeEngine
from tests.serving.conftest import listening

CHART = png(1, size=(64, 48))


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def key(tmp_path: Path) -> str:
    records = database.at(tmp_path / "data")
    await database.create_tables(records, tmp_path / "data")
    key = await KeyStore(records).create("test")
    await database.close(records)
    return key


@pytest.fixture
async def url(tmp_path: Path, engine: FakeEngine, key: str, ring3: None) -> AsyncGenerator[str, None]:
    async with listening(create_app(Settings(data=tmp_path / "data"), engine)) as url:
        yield url


@pytest.fixture
async def session(url: str, key: str) -> AsyncGenerator[Session, None]:
    async with Session(url, key, retry=ONCE) as session:
        yield session


@pytest.mark.parametrize("stream", [False, True])
async def test_ask(session: Session, engine: FakeEngine, stream: bool) -> None:
    engine.enqueue("营收", "增长 8.2%", image_tokens=4)
    answer = await session.ask(CHART, "读出数据", stream=stream, parameters={"temperature": 0})
    assert (answer.text, answer.finish_reason) == ("营收增长 8.2%", "stop")
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.image_tokens) == (10, 2, 4)
    assert answer.usage.total_tokens == 12
    assert answer.request_id
    assert len(engine.history) == 1


async def test_a_large_image_is_uploaded(session: Session, engine: FakeEngine) -> None:
    stream = io.BytesIO()
    Image.effect_noise((256, 256), 90).save(stream, "PNG")
    engine.enqueue("noise")
    assert (await session.ask(stream.getvalue(), "?")).text == "noise"
    assert len(session._uploads._known) == 1


async def test_stream(session: Session, engine: FakeEngine) -> None:
    engine.enqueue("a", "b")
    pieces = [piece async for piece in session.stream(CHART, "?")]
    assert "".join(piece.text for piece in pieces) == "ab"
    assert pieces[-1].finish_reason == "stop"


async def test_a_schema(session: Session, engine: FakeEngine) -> None:
    engine.enqueue('{"v": 1}')
    assert (await session.ask(CHART, "?", schema={"type": "object"})).value == {"v": 1}


async def test_a_wrong_key(url: str) -> None:
    async with Session(url, "sk-wrong", retry=ONCE) as session:
        with pytest.raises(errors.Unauthorized) as caught:
            await session.ask(CHART, "?")
    assert (caught.value.code, caught.value.fatal) == ("InvalidApiKey", True)
    assert caught.value.request_id


async def test_an_unknown_model(session: Session) -> None:
    with pytest.raises(errors.NotFound):
        await session.ask(CHART, "?", model="no-such-model")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_parameter_out_of_range(session: Session, stream: bool) -> None:
    with pytest.raises(errors.InvalidRequest, match="top_p"):
        await session.ask(CHART, "?", stream=stream, parameters={"top_p": 7})


async def test_an_engine_that_dies_while_it_speaks(session: Session, engine: FakeEngine) -> None:
    engine.enqueue("half", error=EngineUnavailable())
    pieces = session.stream(CHART, "?")
    assert (await anext(pieces)).text == "half"
    with pytest.raises(errors.ServerError) as caught:
        await anext(pieces)
    assert caught.value.status == 503


async def test_a_batch(session: Session, engine: FakeEngine, charts: Folder, tmp_path: Path) -> None:
    engine.always("seen")
    folder, job = charts(12), Job("?")
    with Ledger(tmp_path / "out.jsonl", job) as ledger:
        batch = Batch(session, job, ledger, pace=Pace(4), retry=Policy(base=0.01))
        totals = await batch.run(walk([str(folder)]))
    assert (totals.done, totals.failed) == (12, 0)
    assert totals.usage.output_tokens == 12
