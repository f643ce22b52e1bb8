"""The clock of the machine leaps, forwards or back by an hour, under a server that runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from serving.access.grant import Grant, Quota
from serving.access.keys import KeyStore
from serving.app import create_app
from serving.settings import Settings
from serving.storage import database
from tests.fakes import FakeEngine
from tests.serving.compatible.test_batches import content, create, ended, line, upload
from tests.serving.conftest import PATH
from tests.serving.dashscope.test_tasks import accepted, state
from tests.serving.dashscope.test_tasks import ended as task_ended
from tests.serving.dashscope.uploading import certificate, form, post
from tests.serving.webhooks.receiver import receiving
from tests.serving.wire import chat, user

FORWARDS, BACK = 3600.0, -3600.0
NOON = datetime(2026, 11, 30, 12, tzinfo=UTC).timestamp()
leaps = pytest.mark.parametrize("leap", [FORWARDS, BACK])


@dataclass
class Clock:
    now: float = NOON

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        data=tmp_path / "data",
        async_tasks=True,
        task_retention=1800,
        cache_seconds=1800,
        webhook_allow=("127.0.0.1",),
    )


@asynccontextmanager
async def served(
    settings: Settings, engine: FakeEngine, clock: Clock, grant: Grant | None = None, lives_s: float | None = None
) -> AsyncGenerator[httpx.AsyncClient, None]:
    """A client whose key lives for so long."""
    records = database.at(settings.data)
    await database.create_tables(records, settings.data)
    now = datetime.fromtimestamp(clock.now, UTC).replace(tzinfo=None)
    until = None if lives_s is None else now + timedelta(seconds=lives_s)
    secret = await KeyStore(records).create("test", grant or Grant(), expires_at=until)
    await database.close(records)
    app = create_app(settings, engine, clock=clock)
    headers = {"authorization": f"Bearer {secret}"}
    async with (
        app.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test", headers=headers) as client,
    ):
        yield client


async def ask(client: httpx.AsyncClient, words: str = "hi", **headers: str) -> httpx.Response:
    return await client.post(PATH, json=chat(user(words), temperature=0), headers=headers)


async def test_a_key_ends_by_the_clock(settings: Settings, engine: FakeEngine, clock: Clock) -> None:
    async with served(settings, engine, clock, lives_s=1800) as client:
        statuses = []
        for leap in (0.0, FORWARDS, BACK, BACK):
            clock.now += leap
            statuses.append((await ask(client)).status_code)
    assert statuses == [200, 401, 200, 200]


@leaps
async def test_limits_and_kept_answers_do_not_notice(
    settings: Settings, engine: FakeEngine, clock: Clock, leap: float
) -> None:
    async with served(settings, engine, clock, Grant(quota=Quota(rpm=3))) as client:
        assert (await ask(client)).headers["x-homescope-cache"] == "miss"
        clock.now += leap
        assert (await ask(client)).headers["x-homescope-cache"] == "hit"
        assert [(await ask(client, "other")).status_code for _ in range(2)] == [200, 429]


@leaps
@pytest.mark.ring3
async def test_work_that_is_accepted_is_done_once(
    settings: Settings, engine: FakeEngine, clock: Clock, leap: float
) -> None:
    """Tasks, batches and webhooks whose clock leaps while they run, and while they wait."""
    gate = asyncio.Event()
    engine.always("ok", gate=gate)
    settings = settings.model_copy(update={"background_concurrency": 2})
    async with receiving() as receiver, served(settings, engine, clock) as client:
        task = await accepted(client, chat(user("task")))
        batch_id = (await create(client, await upload(client, [line(f"{number}") for number in range(4)]))).json()["id"]
        async with asyncio.timeout(20):
            while engine.running < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        clock.now += leap
        gate.set()
        async with asyncio.timeout(60):
            assert (await task_ended(client, task))["output"]["task_status"] == "SUCCEEDED"
            batch = await ended(client, batch_id)
        assert (batch["status"], batch["request_counts"]["completed"]) == ("completed", 4)
        assert len(await content(client, batch["output_file_id"])) == 4
        told = {"x-dashscope-async": "enable", "x-homescope-callback": receiver.url}
        assert (await client.post(PATH, json=chat(user("told")), headers=told)).status_code == 200
        await receiver.until(204)
        assert abs(int(receiver.received[-1][0]["webhook-timestamp"]) - clock.now) <= 1


async def test_a_task_is_forgotten_by_the_clock(settings: Settings, engine: FakeEngine, clock: Clock) -> None:
    async with served(settings, engine, clock) as client:
        task = await accepted(client)
        await task_ended(client, task)
        for leap, status in ((BACK, "SUCCEEDED"), (FORWARDS, "SUCCEEDED"), (FORWARDS, "UNKNOWN")):
            clock.now += leap
            assert (await state(client, task))["output"]["task_status"] == status


async def test_certificates_and_uploads_end_by_the_clock(settings: Settings, engine: FakeEngine, clock: Clock) -> None:
    async with served(settings, engine, clock) as client:
        granted = await certificate(client)
        for leap, status in ((BACK, 200), (FORWARDS + 200, 200), (200, 403)):
            clock.now += leap
            answer = await post(client, {**form(granted, "a"), "key": f"{granted['upload_dir']}/{clock.now}.png"}, b"x")
            assert answer.status_code == status


@leaps
async def test_a_request_under_an_idempotency_key_is_done_once(
    settings: Settings, engine: FakeEngine, clock: Clock, leap: float
) -> None:
    async with served(settings, engine, clock) as client:
        first = await client.post(PATH, json=chat(user("once")), headers={"idempotency-key": "k"})
        clock.now += leap
        again = await client.post(PATH, json=chat(user("once")), headers={"idempotency-key": "k"})
    assert (first.status_code, again.headers["idempotency-replayed"]) == (200, "true")
    assert (again.json(), len(engine.history)) == (first.json(), 1)
