from __future__ import annotations

import socket
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving.app import create_app
from serving.settings import Settings
from tests.fakes import FakeEngine
from tests.serving.conftest import PATH, listening
from tests.serving.wire import chat, data_uri, picture, user


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path / "data", admin_port=free_port(), prices=("qwen3-vl-30b=2/10",))


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Values by name and the values of the labels, in the order of their names."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_what_operators_are_told(settings: Settings, engine: FakeEngine, key: str) -> None:
    headers = {"authorization": f"Bearer {key}"}
    engine.always("a", "b", input_tokens=1_000_000, image_tokens=66)
    question = chat(user({"image": data_uri(picture())}, "hi"), temperature=0)
    async with listening(create_app(settings, engine)) as url, httpx.AsyncClient(headers=headers) as client:
        admin = f"http://127.0.0.1:{settings.admin_port}"
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
    assert "made up" not in answer.text
