from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest

from serving.access.grant import Grant, Quota
from serving.access.keys import KeyStore
from serving.app import create_app
from serving.dashscope.tokenizer import AT_ONCE, MAX_BODY, MAX_CHARS
from serving.engine.tokens import Tokens, readable
from serving.engine.vllm import VLLM
from serving.errors import EngineUnavailable
from serving.settings import Settings
from serving.storage import database
from tests.fakes import FakeEngine

MODEL = "qwen3-vl-30b"


class Spelling(FakeEngine):
    """An engine that tells its tokens: one for each character. It takes its time for a text that is "slow"."""

    def __init__(self) -> None:
        super().__init__()
        self.slow = 0
        self.may = asyncio.Event()

    async def tokenize(self, text: str) -> Tokens:
        if text == "slow":
            self.slow += 1
            await self.may.wait()
        return Tokens([ord(letter) for letter in text], list(text))


@pytest.fixture
def engine() -> FakeEngine:
    return Spelling()


async def ask(client: httpx.AsyncClient, **body: Any) -> httpx.Response:
    return await client.post("/api/v1/tokenizer", json={"model": MODEL, **body})


@pytest.mark.parametrize(
    "given",
    [
        {"prompt": "代码"},
        {"messages": [{"role": "user", "content": "代码"}]},
        {"messages": [{"role": "user", "content": [{"text": "代"}, {"image": "http://x/a.png"}, {"text": "码"}]}]},
        {"messages": [{"role": "system", "content": "代"}, {"role": "user", "content": "码"}]},
    ],
)
async def test_tokens_of_the_text(client: httpx.AsyncClient, given: dict[str, Any]) -> None:
    answer = await ask(client, input=given, parameters={"x": 1})
    assert answer.status_code == 200
    assert {**answer.json(), "request_id": ""} == {
        "output": {"token_ids": [20195, 30721], "tokens": ["代", "码"]},
        "usage": {"input_tokens": 2},
        "request_id": "",
    }


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ({}, "BadRequest.EmptyInput", "Required input parameter"),
        ({"input": {}}, "InvalidParameter", 'Either "prompt" or "messages"'),
        ({"input": {"prompt": "a", "messages": []}}, "InvalidParameter", "Only one of the parameters"),
        ({"input": {"prompt": ""}}, "InvalidParameter", "got 0"),
        ({"input": {"messages": []}}, "InvalidParameter", "got 0"),
        ({"input": {"prompt": "x" * (MAX_CHARS + 1)}}, "InvalidParameter", f"got {MAX_CHARS + 1}"),
        ({"input": {"prompt": 1}}, "InvalidParameter", "Required body invalid"),
        ({"input": "text"}, "InvalidParameter", "Required body invalid"),
        ({"model": "none", "input": {"prompt": "a"}}, "InvalidParameter", "Model not exist."),
        ({"model": None, "input": {"prompt": "a"}}, "BadRequest.EmptyModel", "model"),
    ],
)
async def test_what_has_no_text_is_refused(client: httpx.AsyncClient, body: Any, code: str, said: str) -> None:
    answer = await ask(client, **body)
    assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert said in answer.json()["message"]


async def test_an_engine_that_cannot_tell_is_no_defect(settings: Settings, key: str) -> None:
    app = create_app(settings, FakeEngine())
    async with app.lifespan_context(app), _client(app, key) as client:
        answer = await ask(client, input={"prompt": "a"})
    assert (answer.status_code, answer.json()["code"]) == (400, "InvalidParameter")


def _client(app: Any, key: str) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test", headers=headers)


@pytest.mark.parametrize(
    ("token", "text"),
    [("ä»£çłģ", "代码"), ("ĠHello", " Hello"), ("Ċ", "\n"), ("<|im_end|>", "<|im_end|>"), ("ä»", "�"), ("中", "中")],
)
def test_byte_level_tokens_are_readable(token: str, text: str) -> None:
    assert readable(token) == text


@pytest.fixture
async def away() -> AsyncGenerator[VLLM, None]:
    engine = VLLM("http://127.0.0.1:9")
    await engine.start()
    yield engine
    await engine.aclose()


async def test_an_engine_that_is_away_is_unavailable(away: VLLM) -> None:
    with pytest.raises(EngineUnavailable):
        await away.tokenize("a")


async def test_the_key_has_limits_and_needs_a_scope_here_too(client: httpx.AsyncClient, settings: Settings) -> None:
    records = database.at(settings.data)
    store = KeyStore(records)
    limited = await store.create("limited", Grant(quota=Quota(rpm=1)))
    narrow = await store.create("narrow", Grant(scopes=frozenset({"files"})))
    await database.close(records)
    client.headers["authorization"] = f"Bearer {limited}"
    assert (await ask(client, input={"prompt": "a"})).status_code == 200
    refused = await ask(client, input={"prompt": "a"})
    assert (refused.status_code, refused.json()["code"]) == (429, "Throttling.RateQuota")
    assert int(refused.headers["retry-after"]) > 0
    client.headers["authorization"] = f"Bearer {narrow}"
    assert (await ask(client, input={"prompt": "a"})).status_code == 403


async def test_a_body_larger_than_any_text_is_not_read(client: httpx.AsyncClient) -> None:
    refused = await client.post("/api/v1/tokenizer", content=b" " * (MAX_BODY + 1))
    assert (refused.status_code, refused.json()["code"]) == (400, "BadRequest.TooLarge")


async def test_a_key_that_asks_much_leaves_a_place_to_others(
    client: httpx.AsyncClient, settings: Settings, engine: Spelling
) -> None:
    records = database.at(settings.data)
    other = await KeyStore(records).create("other")
    await database.close(records)
    much = [asyncio.create_task(ask(client, input={"prompt": "slow"})) for _ in range(8)]
    while engine.slow < AT_ONCE - 1:  # noqa: ASYNC110
        await asyncio.sleep(0)
    headers = {"authorization": f"Bearer {other}"}
    body = {"model": MODEL, "input": {"prompt": "a"}}
    answer = await asyncio.wait_for(client.post("/api/v1/tokenizer", json=body, headers=headers), 20)
    assert (answer.status_code, engine.slow) == (200, AT_ONCE - 1)
    engine.may.set()
    assert [each.status_code for each in await asyncio.gather(*much)] == [200] * 8
