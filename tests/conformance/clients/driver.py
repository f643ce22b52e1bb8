"""The half of the suite that runs beside a client, in an environment that has the client and nothing of homescope.

One process drives one client: every line on its standard input is an `Ask` and the flow to run, every line on its
standard output what the client's own objects said. Nothing but the standard library is imported here.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

Seen: TypeAlias = dict[str, Any]
"""What a client said, in one form for all: the keys are those of `seen`, or of a flow's own."""


TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_revenue",
        "description": "The revenue of one year, in CNY",
        "parameters": {
            "type": "object",
            "properties": {"year": {"type": "integer", "minimum": 1900, "maximum": 2100}},
            "required": ["year"],
        },
    },
}
TOOL_PROMPT = "What was the revenue in 2024? Use the tool."
TOOL_RESULT = "12.5 billion"
JSON_PROMPT = "Answer as JSON with the keys value and unit."
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"value": {"type": "number"}, "unit": {"type": "string"}},
    "required": ["value", "unit"],
    "additionalProperties": False,
}
WRONG_KEY = "sk-00000000000000000000000000000000"


@dataclass(frozen=True)
class Ask:
    """Where the client is pointed, and what it sends.

    `native` and `compatible` are base URLs. Pictures are given in every form that clients take: `image` and `frames`
    as data URIs, `image_url` as an http URL, `image_path` as a local file. `second` is another picture, a data URI, and
    `comparison` what is asked about both. `lines_path` is a file of batch lines. `tool_choice` None leaves the choice
    to the model.
    """

    native: str
    compatible: str
    origin: str
    key: str
    model: str
    prompt: str
    image: str
    second: str
    comparison: str
    image_url: str
    image_path: str
    frames: list[str]
    video_url: str
    lines_path: str
    json_prompt: str = JSON_PROMPT
    schema: dict[str, Any] = field(default_factory=lambda: SCHEMA)
    tool_choice: dict[str, Any] | None = None

    @property
    def tools(self) -> dict[str, Any]:
        """The options with which a question about tools is asked."""
        return {"tools": [TOOL]} | ({"tool_choice": self.tool_choice} if self.tool_choice else {})


Flow: TypeAlias = Callable[[Ask], Seen | Awaitable[Seen]]
F = TypeVar("F", bound=Flow)
FLOWS: dict[str, Flow] = {}
"""Of the one program that runs in this process."""


def flow(name: str) -> Callable[[F], F]:
    """Makes a function the flow of that name."""

    def register(work: F) -> F:
        FLOWS[name] = work
        return work

    return register


def seen(
    text: str | None = None,
    finish: str | None = None,
    *,
    tokens: tuple[int, int] | None = None,
    **more: Any,
) -> Seen:
    """`tokens` in and out. Further keys: `pieces` (texts as they came), `reasoning`, `calls`, `request_id`."""
    return {"text": text, "finish": finish, "tokens": tokens, **more}


def failed(status: int | None, code: str | None, message: str) -> Seen:
    """An error as the client told it; None for what the client does not say."""
    return {"status": status, "code": code, "message": message}


@dataclass
class Calls:
    """Tool calls put together from deltas, by index."""

    calls: dict[int, dict[str, str]] = field(default_factory=dict)

    def add(self, index: int, call_id: str | None, name: str | None, arguments: str | None) -> None:
        call = self.calls.setdefault(index, {"id": "", "name": "", "arguments": ""})
        for key, piece in (("id", call_id), ("name", name), ("arguments", arguments)):
            call[key] += piece or ""

    @property
    def list(self) -> list[dict[str, str]]:
        return [self.calls[index] for index in sorted(self.calls)]


@dataclass
class Streamed:
    """An answer in pieces whose choices have a `delta`, as those of OpenAI have."""

    pieces: list[str] = field(default_factory=list)
    reasoning: str = ""
    calls: Calls = field(default_factory=Calls)
    finish: str | None = None
    tokens: tuple[int, int] | None = None

    def add(self, choice: Any) -> None:
        delta = choice.delta
        self.pieces.append(delta.content or "")
        self.reasoning += getattr(delta, "reasoning_content", None) or ""
        for call in delta.tool_calls or []:
            self.calls.add(call.index, call.id, call.function.name, call.function.arguments)
        self.finish = choice.finish_reason or self.finish

    def seen(self) -> Seen:
        return seen(
            "".join(self.pieces),
            self.finish,
            tokens=self.tokens,
            pieces=self.pieces,
            reasoning=self.reasoning,
            calls=self.calls.list,
        )


def serve() -> None:
    """Runs flows until the input ends. What libraries print goes to standard error."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    sys.stdout = sys.stderr
    for line in sys.stdin:
        order = json.loads(line)
        answers.write(json.dumps(_run(FLOWS[order["flow"]], Ask(**order["ask"]))) + "\n")
        answers.flush()


def _run(flow: Flow, ask: Ask) -> dict[str, Any]:
    try:
        outcome = flow(ask)
        return {"seen": outcome if isinstance(outcome, dict) else asyncio.run(_finish(outcome))}
    except Exception:
        return {"crashed": traceback.format_exc()}


async def _finish(outcome: Awaitable[Seen]) -> Seen:
    return await outcome
