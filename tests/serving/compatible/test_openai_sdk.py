"""Which of the openai SDK's exceptions the server's refusals become; what else it does is in `tests/conformance`."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import openai
import pytest

from serving.errors import EngineUnavailable, GenerationFailed, Overloaded, ServingError
from tests.fakes import FakeEngine
from tests.serving.conftest import Server

MODEL = "qwen3-vl-30b"


@pytest.fixture(params=["/compatible-mode/v1", "/v1"])
async def sdk(request: pytest.FixtureRequest, server: Server) -> AsyncGenerator[openai.AsyncOpenAI, None]:
    async with openai.AsyncOpenAI(base_url=server.url + request.param, api_key=server.key, max_retries=0) as sdk:
        yield sdk


async def ask(sdk: openai.AsyncOpenAI, model: str = MODEL) -> None:
    await sdk.chat.completions.create(model=model, messages=[{"role": "user", "content": "hi"}])


async def test_a_model_that_is_not_there(sdk: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as asked:
        await ask(sdk, "gpt-4o")
    with pytest.raises(openai.NotFoundError) as looked_up:
        await sdk.models.retrieve("gpt-4o")
    assert asked.value.code == looked_up.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("failure", "raised"),
    [
        (Overloaded(retry_after=1), openai.RateLimitError),
        (GenerationFailed(), openai.InternalServerError),
        (EngineUnavailable(retry_after=1), openai.InternalServerError),
    ],
)
async def test_what_is_not_the_clients_fault(
    sdk: openai.AsyncOpenAI, engine: FakeEngine, failure: ServingError, raised: type[openai.APIStatusError]
) -> None:
    engine.enqueue(error=failure)
    with pytest.raises(raised) as error:
        await ask(sdk)
    assert error.value.status_code == failure.status
    assert error.value.response.headers.get("retry-after") == failure.headers.get("retry-after")
