"""Unmodified clients against the server; only their URL and key are set."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any, TypeVar

import aiohttp
import dashscope
import pytest
import requests

from serving.errors import EngineUnavailable
from tests.fakes import FakeEngine
from tests.serving.conftest import PATH, Server
from tests.serving.wire import data_uri, picture

T = TypeVar("T")
IMAGE = data_uri(picture())
MESSAGES = [{"role": "user", "content": [{"image": IMAGE}, {"text": "图表里的营收是多少？"}]}]

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


async def in_thread(call: Callable[[], T]) -> T:
    return await asyncio.to_thread(call)


@pytest.fixture
def sdk(server: Server) -> Iterator[Server]:
    before = dashscope.base_http_api_url
    dashscope.base_http_api_url = f"{server.url}/api/v1"
    yield server
    dashscope.base_http_api_url = before


def ask(server: Server, **options: Any) -> Any:
    return dashscope.MultiModalConversation.call(api_key=server.key, model="qwen3-vl-30b", messages=MESSAGES, **options)


async def test_the_articles_program(server: Server, engine: FakeEngine) -> None:
    engine.enqueue("营收", "120亿", input_tokens=90, image_tokens=66)

    def program() -> str:
        payload = {
            "model": "qwen3-vl-30b",
            "input": {"messages": MESSAGES},
            "parameters": {"temperature": 0.1, "max_tokens": 512, "top_p": 0.8},
        }
        headers = {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"}
        resp = requests.post(server.url + PATH, headers=headers, json=payload, timeout=10)
        resp.raise_for_status()
        return str(resp.json()["output"]["text"])

    assert await in_thread(program) == "营收120亿"


async def test_the_sdk(sdk: Server, engine: FakeEngine) -> None:
    engine.enqueue("营收", "120亿", input_tokens=90, image_tokens=66)
    response = await in_thread(lambda: ask(sdk))
    assert response.status_code == HTTPStatus.OK
    assert response.output.choices[0].message.content[0]["text"] == "营收120亿"
    assert response.output.choices[0].finish_reason == "stop"
    assert (response.usage.input_tokens, response.usage.image_tokens) == (90, 66)
    assert response.request_id


@pytest.mark.parametrize(
    ("incremental", "expected"), [(True, ["营收", "120亿", ""]), (False, ["营收", "营收120亿", "营收120亿"])]
)
async def test_the_sdk_streams(sdk: Server, engine: FakeEngine, incremental: bool, expected: list[str]) -> None:
    engine.enqueue("营收", "120亿")

    def program() -> list[tuple[str, str]]:
        """Read as they come: for `incremental_output=False` the SDK merges the pieces into one object."""
        seen = []
        for response in ask(sdk, stream=True, incremental_output=incremental):
            (choice,) = response.output.choices
            seen.append(("".join(part["text"] for part in choice.message.content), choice.finish_reason))
            assert response.usage.total_tokens
        return seen

    assert await in_thread(program) == list(zip(expected, ["null", "null", "stop"], strict=True))


async def test_the_sdks_asynchronous_twin(sdk: Server, engine: FakeEngine) -> None:
    engine.always("营收", "120亿")
    call: Any = dashscope.AioMultiModalConversation.call
    async with aiohttp.ClientSession() as session:
        options = {"api_key": sdk.key, "model": "qwen3-vl-30b", "messages": MESSAGES, "session": session}
        whole = await call(**options)
        assert whole.output.choices[0].message.content[0]["text"] == "营收120亿"
        stream = await call(**options, stream=True, incremental_output=True)
        assert [response.output.choices[0].finish_reason async for response in stream] == ["null", "null", "stop"]


async def test_the_sdk_hears_which_urls_are_not_fetched(sdk: Server) -> None:
    response: Any = await in_thread(
        lambda: dashscope.MultiModalConversation.call(
            api_key=sdk.key,
            model="qwen3-vl-30b",
            messages=[{"role": "user", "content": [{"image": "https://127.0.0.1/a.png"}, {"text": "?"}]}],
        )
    )
    assert (response.status_code, response.code) == (HTTPStatus.BAD_REQUEST, "InvalidParameter")
    assert "is not on the public Internet" in response.message


async def test_the_sdk_sees_errors(sdk: Server, engine: FakeEngine) -> None:
    wrong: Any = await in_thread(
        lambda: dashscope.MultiModalConversation.call(api_key="sk-wrong", model="qwen3-vl-30b", messages=MESSAGES)
    )
    assert (wrong.status_code, wrong.code) == (HTTPStatus.UNAUTHORIZED, "InvalidApiKey")
    engine.enqueue(error=EngineUnavailable())
    (refused,) = await in_thread(lambda: list(ask(sdk, stream=True)))
    assert (refused.status_code, refused.code) == (HTTPStatus.SERVICE_UNAVAILABLE, "ModelUnavailable")


async def test_the_sdk_sees_an_error_in_mid_stream(sdk: Server, engine: FakeEngine) -> None:
    engine.enqueue("营收", error=EngineUnavailable())
    first, error = await in_thread(lambda: list(ask(sdk, stream=True, incremental_output=True)))
    assert first.output.choices[0].message.content == [{"text": "营收"}]
    assert error.code == "ModelUnavailable"


async def test_the_sdks_new_client_sends_text_to_the_text_path(server: Server, engine: FakeEngine) -> None:
    engine.always("Hello", " there")

    def chat(stream: bool) -> Any:
        with dashscope.Client(api_key=server.key, base_url=f"{server.url}/api/v1") as client:
            messages = [{"role": "user", "content": "hi"}]
            create: Any = client.chat.completions.create
            answer = create(model="qwen3-vl-30b", messages=messages, stream=stream)
            return list(answer) if stream else answer

    assert "Hello there" in str(await in_thread(lambda: chat(False)))
    assert len(await in_thread(lambda: chat(True))) == 3
