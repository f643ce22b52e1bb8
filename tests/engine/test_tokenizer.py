from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from serving.engine.vllm import VLLM


@pytest.fixture
async def engine(engine_url: str, engine_key: str) -> AsyncGenerator[VLLM, None]:
    engine = VLLM(engine_url, key=engine_key)
    await engine.start()
    yield engine
    await engine.aclose()


@pytest.mark.parametrize("text", ["代码改变世界", "Hello, world!\n", " 120.5亿元", "<|im_start|>user"])
async def test_tokens_are_the_text(engine: VLLM, text: str) -> None:
    tokens = await engine.tokenize(text)
    assert len(tokens.ids) == len(tokens.texts) > 0
    if "�" not in "".join(tokens.texts):
        assert "".join(tokens.texts) == text
