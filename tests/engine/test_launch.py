import asyncio
import base64
import io
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from serving.engine.launch import Launcher
from serving.settings import MODEL_NAMES


def image_part(width: int = 320, height: int = 224, color: str = "white", **more: Any) -> dict[str, Any]:
    png = io.BytesIO()
    Image.new("RGB", (width, height), color).save(png, "PNG")
    url = "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": url}, **more}


def question(*parts: dict[str, Any], **more: Any) -> dict[str, Any]:
    content = [*parts, {"type": "text", "text": "描述这张图。"}]
    messages = [{"role": "user", "content": content}]
    return {"model": MODEL_NAMES[0], "messages": messages, "max_tokens": 8, "temperature": 0, **more}


@pytest.fixture
async def client(engine_url: str, engine_key: str) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"authorization": f"Bearer {engine_key}"}
    async with httpx.AsyncClient(base_url=engine_url, headers=headers, timeout=60) as client:
        yield client


async def test_serves_all_its_names(client: httpx.AsyncClient) -> None:
    models = (await client.get("/models")).json()["data"]
    assert [model["id"] for model in models] == list(MODEL_NAMES)
    for name in MODEL_NAMES:
        assert (await client.post("/chat/completions", json=question() | {"model": name})).status_code == 200


async def test_asks_for_the_key(engine_url: str) -> None:
    async with httpx.AsyncClient(base_url=engine_url) as stranger:
        assert (await stranger.post("/chat/completions", json=question())).status_code == 401


async def test_counts_the_tokens_of_images(client: httpx.AsyncClient) -> None:
    usage = (await client.post("/chat/completions", json=question(image_part(), image_part(256, 256)))).json()["usage"]
    assert usage["prompt_tokens_details"]["multimodal_tokens"] == {"image": 10 * 7 + 8 * 8}


async def test_takes_priorities(client: httpx.AsyncClient) -> None:
    assert (await client.post("/chat/completions", json=question(image_part(), priority=10))).status_code == 200


async def test_a_known_image_need_not_be_sent_again(client: httpx.AsyncClient) -> None:
    seen = await client.post("/chat/completions", json=question(image_part(color="red", uuid="red")))
    again = {"type": "image_url", "image_url": None, "uuid": "red"}
    repeated = await client.post("/chat/completions", json=question(again))
    assert repeated.json()["choices"][0]["message"] == seen.json()["choices"][0]["message"]
    unknown = await client.post("/chat/completions", json=question(again | {"uuid": "never seen"}))
    assert unknown.status_code == 400


async def test_fetches_nothing(client: httpx.AsyncClient) -> None:
    part = {"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/chart.png"}}
    refused = await client.post("/chat/completions", json=question(part))
    assert refused.status_code == 400
    assert "must be from one of the allowed domains" in refused.text


def test_is_one_process_group_on_the_loopback_alone(launcher: Launcher) -> None:
    assert launcher.pid is not None
    assert os.getpgid(launcher.pid) == launcher.pid != os.getpgid(0)
    port = httpx.URL(launcher.base_url).port
    listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines() if " 0A " in line]
    assert [address for address in listening if address.endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]


async def test_comes_back_at_the_same_address_when_its_model_process_is_killed(
    launcher: Launcher, client: httpx.AsyncClient
) -> None:
    assert launcher.pid is not None
    died, core = launcher.pid, child_named("EngineCor", launcher.pid)
    asked = asyncio.create_task(client.post("/chat/completions", json=question(image_part(), max_tokens=2000)))
    await asyncio.sleep(0)
    os.kill(core, signal.SIGKILL)
    await asyncio.gather(asked, return_exceptions=True)  # answered or broken off, but never left hanging
    deadline = time.monotonic() + 200
    while launcher.pid in (died, None) or not await answers(client):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.2)
    assert (await client.post("/chat/completions", json=question(image_part()))).status_code == 200


async def answers(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/models")).status_code == 200
    except httpx.TransportError:
        return False


def child_named(name: str, group: int) -> int:
    for process in Path("/proc").glob("[0-9]*"):
        pid = int(process.name)
        with suppress(OSError):  # it ended meanwhile
            if pid != group and os.getpgid(pid) == group and name in (process / "comm").read_text():
                return pid
    raise AssertionError(f"no {name} in process group {group}")
