"""The same question in each protocol, and what an answer says: no input or output in here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import orjson

from benchmarks.workload import Ask

NATIVE_PATH = "/api/v1/services/aigc/multimodal-generation/generation"


class Delta(NamedTuple):
    """What one event, or a whole answer, adds. Counts are of the whole answer so far; None where it does not say."""

    text: str = ""
    input_tokens: int | None = None
    output_tokens: int | None = None
    image_tokens: int | None = None
    finished: bool = False
    error: str = ""


class Dialect(Protocol):
    """One protocol, streamed or whole."""

    @property
    def name(self) -> str: ...

    @property
    def path(self) -> str: ...

    @property
    def stream(self) -> bool: ...

    def headers(self) -> dict[str, str]: ...

    def body(self, ask: Ask, model: str, extra: Mapping[str, Any]) -> bytes: ...

    def delta(self, data: str | bytes) -> Delta:
        """Raises ValueError, KeyError, TypeError, IndexError: not an answer of this protocol."""
        ...


@dataclass(frozen=True)
class Native:
    """DashScope's own."""

    stream: bool
    path: str = NATIVE_PATH

    @property
    def name(self) -> str:
        return "native-sse" if self.stream else "native"

    def headers(self) -> dict[str, str]:
        return {"x-dashscope-sse": "enable", "accept": "text/event-stream"} if self.stream else {}

    def body(self, ask: Ask, model: str, extra: Mapping[str, Any]) -> bytes:
        content = [*({"image": picture.uri} for picture in ask.images), {"text": ask.prompt}]
        streaming = {"incremental_output": True} if self.stream else {}
        parameters = {"max_tokens": ask.max_tokens, "temperature": 0, **streaming, **extra}
        messages = [{"role": "user", "content": content}]
        return orjson.dumps({"model": model, "input": {"messages": messages}, "parameters": parameters})

    def delta(self, data: str | bytes) -> Delta:
        payload = orjson.loads(data)
        if "output" not in payload:
            return Delta(error=str(payload.get("code") or "error"))
        choice, usage = payload["output"]["choices"][0], payload.get("usage") or {}
        content = choice["message"].get("content") or ""
        text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
        finish = choice.get("finish_reason")
        return Delta(
            text=text,
            input_tokens=usage.get("input_tokens"),
            output_tokens=usage.get("output_tokens"),
            image_tokens=usage.get("image_tokens"),
            finished=finish not in (None, "null"),
        )


@dataclass(frozen=True)
class Compatible:
    """OpenAI's form: homescope's, the cloud's, vLLM's or a router's."""

    stream: bool
    path: str = "/v1/chat/completions"

    @property
    def name(self) -> str:
        return "compatible-sse" if self.stream else "compatible"

    def headers(self) -> dict[str, str]:
        return {}

    def body(self, ask: Ask, model: str, extra: Mapping[str, Any]) -> bytes:
        images = [{"type": "image_url", "image_url": {"url": picture.uri}} for picture in ask.images]
        messages = [{"role": "user", "content": [*images, {"type": "text", "text": ask.prompt}]}]
        # First, so that whoever only wants to know whether to stream finds it before the images.
        streaming = {"stream": True, "stream_options": {"include_usage": True}} if self.stream else {}
        rest = {"model": model, "messages": messages, "max_tokens": ask.max_tokens, "temperature": 0}
        return orjson.dumps({**streaming, **rest, **extra})

    def delta(self, data: str | bytes) -> Delta:
        payload = orjson.loads(data)
        if "choices" not in payload:
            return Delta(error=str((payload.get("error") or {}).get("code") or "error"))
        usage = payload.get("usage") or {}
        details = (usage.get("prompt_tokens_details") or {}).get("multimodal_tokens") or {}
        choice = payload["choices"][0] if payload["choices"] else {}
        message = choice.get("delta") or choice.get("message") or {}
        return Delta(
            text=message.get("content") or "",
            input_tokens=usage.get("prompt_tokens"),
            output_tokens=usage.get("completion_tokens"),
            image_tokens=details.get("image"),
            finished=choice.get("finish_reason") is not None,
        )


DIALECTS: dict[str, Dialect] = {
    each.name: each for each in (Native(False), Native(True), Compatible(False), Compatible(True))
}
