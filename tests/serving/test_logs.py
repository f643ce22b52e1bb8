from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Iterator

import httpx
import pytest

from serving import logs
from serving.errors import EngineUnavailable, GenerationFailed
from tests.fakes import FakeEngine
from tests.serving.conftest import PATH
from tests.serving.media.test_images import png
from tests.serving.wire import chat, data_uri, user

CANARY = "canary-3141592653"


@pytest.fixture(autouse=True)
def _root_logger() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


async def test_one_line_per_request(
    client: httpx.AsyncClient, engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.set_up("json", "info")
    engine.enqueue("a", "b", input_tokens=9)
    response = await client.post(PATH, json=chat(), headers={"x-dashscope-sse": "enable"})
    (line,) = [json.loads(line) for line in capsys.readouterr().err.splitlines() if "serving.requests" in line]
    expected = {
        "request_id": response.headers["x-request-id"],
        "key": "test",
        "model": "qwen3-vl-30b",
        "status": 200,
        "outcome": "ok",
        "stream": True,
        "images": 0,
        "input_tokens": 9,
        "output_tokens": 2,
    }
    assert line.items() >= expected.items()
    assert 0 <= line["queued_ms"] <= line["first_chunk_ms"] <= line["total_ms"]


async def test_the_text_form(client: httpx.AsyncClient, capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("text", "info")
    await client.post(PATH, json=chat(model="qwen-max"))
    assert " status=400 outcome=InvalidParameter stream=False " in capsys.readouterr().err


@pytest.mark.parametrize("form", ["text", "json"])
async def test_nothing_of_a_request_reaches_the_log(
    client: httpx.AsyncClient, engine: FakeEngine, form: str, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.set_up("json" if form == "json" else "text", "debug")
    image = data_uri(png(64, 64, zlib.compress(b"") + CANARY.encode()))
    engine.enqueue(CANARY)
    engine.enqueue(CANARY, error=EngineUnavailable())
    engine.enqueue(error=GenerationFailed())
    for body in (
        chat(user({"image": image}, CANARY)),
        chat(user(CANARY)),
        chat(user({"image": image}, CANARY)),
        chat(user(CANARY), model=CANARY),
        chat(user({"image": CANARY})),
        chat(user(CANARY), stop=[CANARY, 1]),
    ):
        await client.post(PATH, json=body)
        await client.post(PATH, content=json.dumps(body)[:-1])
        await client.post(PATH, json=body, headers={"authorization": f"Bearer sk-{CANARY}"})
    printed = capsys.readouterr().err
    assert printed.count("serving.requests") == 18
    assert CANARY not in printed
    assert image[-60:] not in printed
    assert key not in printed
