from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import pytest

from serving.engine.embedded import Embedded
from serving.errors import EngineUnavailable
from serving.generation import Caller, Generation, Message, Text


@pytest.fixture
async def embedded(tmp_path: Path) -> AsyncGenerator[Embedded, None]:
    model = str(tmp_path / "no-such-model")
    engine = Embedded(model=model, served_names=("m",), log_dir=tmp_path, on_progress=lambda progress: None)
    yield engine
    await engine.aclose()


async def test_what_cannot_start_says_why(embedded: Embedded) -> None:
    with pytest.raises(EngineUnavailable) as raised:
        await embedded.start()
    assert len(str(raised.value)) > len(EngineUnavailable.message)
    assert not await embedded.ready()


async def test_until_it_has_started_it_asks_for_patience(embedded: Embedded) -> None:
    question = Generation("r", Caller("k", "test"), "m", (Message("user", (Text("hi"),)),))
    async with aclosing(embedded.generate(question)) as chunks:
        with pytest.raises(EngineUnavailable) as raised:
            await anext(chunks)
    assert raised.value.retry_after == 5
