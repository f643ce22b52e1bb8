from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

import pytest

from benchmarks.mock_engine import Engine, Knobs, listen


class Mock(Protocol):
    """Starts a mock engine in this process: its address and itself."""

    def __call__(self, knobs: Knobs) -> AbstractAsyncContextManager[tuple[str, Engine]]: ...


@pytest.fixture
def mock(ring3: None) -> Mock:
    @asynccontextmanager
    async def start(knobs: Knobs) -> AsyncGenerator[tuple[str, Engine], None]:
        engine = Engine(knobs)
        async with await listen(engine) as server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", engine

    return start
