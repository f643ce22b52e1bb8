"""The openai SDK, unmodified, against a server on a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator

import openai
import pytest

from serving.errors import Overloaded
from tests.fakes import FakeEngine
from tests.serving.compatible.wire import chat, image, user
from tests.serving.conftest import Server
from tests.serving.wire import data_uri, picture

MODEL = "qwen3-vl-30b"


@pytest.fixture(params=["/compatible-mode/v1", "/v1"])
async def sdk(request: pytest.FixtureRequest, server: Server) -> AsyncGenerator[openai.AsyncOpenAI, None]:
    async with openai.AsyncOpenAI(base_url=server.url + request.param, api_key=server.key, max_retries=0) as sdk:
        yield sdk


async def test_chat(sdk: openai.AsyncOpenAI, engine: FakeEngine) -> None:
    engine.enqueue("A dog", ".")
    messages = [user(image(data_uri(picture())), "What is this?")]
    answer = await sdk.chat.completions.create(model=MODEL, messages=messages, extra_body={"top_k": 5})  # type: ignore[arg-type]
    assert answer.choices[0].message.content == "A dog."
    assert answer.usage is not None
    assert answer.usage.total_tokens == 12
    assert engine.history[0].sampling.top_k == 5


async def test_stream(sdk: openai.AsyncOpenAI, engine: FakeEngine) -> None:
    engine.enqueue("A", " dog")
    stream = await sdk.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "hi"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "A dog"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 2


async def test_errors_are_typed(sdk: openai.AsyncOpenAI, engine: FakeEngine) -> None:
    with pytest.raises(openai.NotFoundError) as none:
        await sdk.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "hi"}])
    assert none.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="Temperature should be in"):
        await sdk.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "hi"}], temperature=3)
    engine.enqueue(error=Overloaded(retry_after=1))
    with pytest.raises(openai.RateLimitError):
        await sdk.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "hi"}])
    with pytest.raises(openai.AuthenticationError):
        await sdk.with_options(api_key="sk-wrong").models.list()


async def test_models(sdk: openai.AsyncOpenAI) -> None:
    assert MODEL in [model.id async for model in sdk.models.list()]
    assert (await sdk.models.retrieve(MODEL)).object == "model"


async def test_a_batch_and_its_files(sdk: openai.AsyncOpenAI, engine: FakeEngine) -> None:
    engine.always("ok")
    lines = [{"custom_id": f"q{n}", "method": "POST", "url": "/v1/chat/completions", "body": chat()} for n in range(3)]
    data = "\n".join(json.dumps(line) for line in lines).encode()
    file = await sdk.files.create(file=("in.jsonl", data), purpose="batch")
    assert file.id in [each.id async for each in sdk.files.list()]
    batch = await sdk.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"ds_name": "x"}
    )
    async with asyncio.timeout(20):
        while batch.status != "completed":
            await asyncio.sleep(0.05)
            batch = await sdk.batches.retrieve(batch.id)
    assert [each.id async for each in sdk.batches.list()] == [batch.id]
    assert batch.output_file_id is not None
    output = (await sdk.files.content(batch.output_file_id)).text
    assert [json.loads(line)["custom_id"] for line in output.splitlines()] == ["q0", "q1", "q2"]
    assert (await sdk.files.delete(file.id)).deleted
    with pytest.raises(openai.NotFoundError):
        await sdk.files.retrieve(file.id)
