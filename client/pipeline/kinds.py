"""Who answers an item: a function for every kind of work."""

from __future__ import annotations

import importlib
import time
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from client.errors import ConfigurationError
from client.models import Done
from client.pipeline.models import Work
from client.session import Session

Answering: TypeAlias = Callable[[Session, Work, bytes, str], Awaitable[Done]]
"""Asks about an image under an `Idempotency-Key`; returns what is stored. Errors are those of `Session.ask`."""


async def ask(session: Session, item: Work, image: bytes, idempotency_key: str) -> Done:
    """The item's own question."""
    began = time.perf_counter()
    answer = await session.ask(
        [image], item.prompt, model=item.model, schema=item.schema, parameters=dict(item.parameters),
        idempotency_key=idempotency_key,
    )  # fmt: skip
    return Done(
        file=f"{item.document} {item.label}",
        key=item.key,
        answer=answer.text,
        value=answer.value,
        finish_reason=answer.finish_reason,
        usage=answer.usage,
        request_id=answer.request_id,
        model=answer.model,
        seconds=round(time.perf_counter() - began, 3),
        attempts=1,
    )


KINDS: dict[str, Answering | str] = {"ask": ask, "report": "client.finance.pipeline:answer"}
"""By name. A text says `module:function`, looked up when the first item of that kind comes."""


def answering(kind: str) -> Answering:
    """The function of a kind.

    Raises:
        ConfigurationError: there is none, or what it needs is not installed.
    """
    found = KINDS.get(kind)
    if found is None:
        raise ConfigurationError(f"no kind of work is called {kind[:40]!r}; there are: {', '.join(KINDS)}")
    if not isinstance(found, str):
        return found
    module, _, name = found.partition(":")
    try:
        function: Answering = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"work of the kind {kind} cannot be done here: {error}") from error
    return function
