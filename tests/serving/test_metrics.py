from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving.app import create_app
from serving.errors import Overloaded, StorageUnavailable
from serving.generation import Caller
from serving.jobs.job import Failure, NewJob
from serving.jobs.leases import Leases
from serving.jobs.queue import Backlog, Queue
from serving.layers.admitted import Admitted
from serving.layers.forecast import FEW
from serving.metrics import Metrics
from serving.server import listen, url_of
from serving.settings import Settings
from serving.storage import database
from tests.fakes import FakeEngine
from tests.serving.conftest import PATH, listening
from tests.serving.wire import chat, data_uri, picture, user


@pytest.fixture
def operators(ring3: None) -> Iterator[socket.socket]:
    with listen("127.0.0.1", 0) as listener:
        yield listener


@pytest.fixture
def settings(tmp_path: Path, request: pytest.FixtureRequest) -> Settings:
    further = getattr(request, "param", {})
    return Settings(data=tmp_path / "data", prices=("qwen3-vl-30b=2/10",), **further)


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Values by name and the values of the labels, in the order of their names."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_what_operators_are_told(
    settings: Settings, engine: FakeEngine, key: str, operators: socket.socket
) -> None:
    headers = {"authorization": f"Bearer {key}"}
    engine.always("a", "b", input_tokens=1_000_000, image_tokens=66)
    question = chat(user({"image": data_uri(picture())}, "hi"), temperature=0)
    app = create_app(settings, engine, operators=operators)
    async with listening(app) as url, httpx.AsyncClient(headers=headers) as client:
        admin = url_of(operators)
        answers = [await client.post(url + PATH, json=question) for _ in range(2)]
        assert [answer.headers["x-homescope-cache"] for answer in answers] == ["miss", "hit"]
        assert (await client.post(url + PATH, json=chat(model="made up"))).status_code == 400
        assert (await client.get(url + "/metrics")).status_code == 404
        assert (await client.get(admin + "/readyz")).status_code == 200
        answer = await client.get(admin + "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    told = samples(answer.text)
    assert told["homescope_requests_total", "qwen3-vl-30b", "ok"] == 2
    assert told["homescope_errors_total", "InvalidParameter", "400"] == 1
    assert told["homescope_tokens_total", "input", "qwen3-vl-30b"] == 1_000_000
    assert told["homescope_tokens_total", "image", "qwen3-vl-30b"] == 66
    assert told["homescope_images_total", "qwen3-vl-30b"] == 2
    assert told["homescope_cost_total", "qwen3-vl-30b"] == pytest.approx(2 + 2 * 10 / 1e6)
    assert (told["homescope_cache_total", "hit"], told["homescope_cache_total", "miss"]) == (1, 1)
    assert told["homescope_stage_seconds_count", "total"] == 2
    assert told["homescope_stage_seconds_count", "queue"] == 1
    assert told["homescope_in_flight",] == told["homescope_pixels_in_flight",] == 0
    assert told["homescope_jobs", "waiting"] == told["homescope_jobs", "running"] == 0
    assert "made up" not in answer.text


async def test_what_waits_in_the_queue(settings: Settings, engine: FakeEngine, key: str) -> None:
    """The key has made the database."""
    records = database.at(settings.data)
    now = 1_000_000
    queue = Queue(records, lambda: now)
    waiting = [NewJob("task", Caller("k", "reports")) for _ in range(3)]
    for job in waiting:
        await queue.submit(job)
        now += 10_000
    leases = Leases(queue, "me", {"task": Failure.of})
    await leases.take(1)
    told = samples((await Metrics(engine, (), {}, queue.backlog).text()).decode())
    assert (told["homescope_jobs", "waiting"], told["homescope_jobs", "running"]) == (2, 1)
    assert told["homescope_jobs_oldest_seconds",] == 20
    await database.close(records)


async def test_a_database_that_is_away_leaves_the_other_metrics(engine: FakeEngine) -> None:
    async def away() -> Backlog:
        raise StorageUnavailable

    told = samples((await Metrics(engine, (), {}, away).text()).decode())
    assert not [name for name in told if name[0].startswith("homescope_jobs")]


@pytest.mark.parametrize("settings", [{"limit_rpm": 1}], indirect=True)
async def test_refusals_of_limits_are_counted(
    settings: Settings, engine: FakeEngine, key: str, operators: socket.socket
) -> None:
    headers = {"authorization": f"Bearer {key}"}
    app = create_app(settings, engine, operators=operators)
    async with listening(app) as url, httpx.AsyncClient(headers=headers) as client:
        statuses = [(await client.post(url + PATH, json=chat())).status_code for _ in range(3)]
        told = samples((await client.get(url_of(operators) + "/metrics")).text)
    assert statuses == [200, 429, 429]
    assert told["homescope_limit_refusals_total", "server", "requests"] == 2


async def test_the_wait_for_a_place_and_who_got_none_are_told(engine: FakeEngine) -> None:
    async def backlog() -> Backlog:
        return Backlog()

    now = 0.0
    layer = Admitted(engine, max_in_flight=1, max_queued=1, queue_timeout=5, clock=lambda: now)
    metrics = Metrics(layer, (), {}, backlog)
    name, reasons = "homescope_queue_expected_seconds", "homescope_queue_refusals_total"
    assert (name,) not in samples((await metrics.text()).decode())
    for _ in range(FEW):
        layer.gate.holds.add(4.0)
    assert samples((await metrics.text()).decode())[name,] == 0.0
    layer.gate.enter(0, "interactive")
    layer.gate.enter(0, "interactive")
    with pytest.raises(Overloaded):
        layer.gate.enter(0, "interactive")
    with pytest.raises(Overloaded):
        layer.gate.enter(0, "background")
    now = 1.0
    told = samples((await metrics.text()).decode())
    assert told[name,] == 7.0
    assert told[reasons, "interactive", "would_wait"] == told[reasons, "background", "full"] == 1
    assert told[reasons, "interactive", "waited"] == 0
