from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from serving import sse
from serving.generation import Answer, Choice, Chunk, TokenLogprob, ToolCallDelta, Usage

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Rendering:
    """How one chat completion is written: whole, or as chunks with the usage in a last one if `include_usage`."""

    request_id: str
    model: str
    include_usage: bool = False
    created: int = field(default_factory=lambda: int(time.time()))
    """Seconds since 1970."""

    def whole(self, answer: Answer) -> bytes:
        return orjson.dumps(self.completion(answer))

    def completion(self, answer: Answer) -> dict[str, Any]:
        choices = [
            {
                "message": _message(choice),
                "finish_reason": choice.finish_reason,
                "index": index,
                "logprobs": _logprobs(choice.logprobs),
            }
            for index, choice in enumerate(answer.choices)
        ]
        return self._envelope("chat.completion", choices, to_usage(answer.usage))

    async def frames(self, chunks: AsyncIterator[Chunk]) -> AsyncGenerator[bytes, None]:
        """Of each answer a first chunk with the role, one per piece, and one with the reason for the end."""
        begun: dict[int, bytes] = {}
        usage = Usage()
        async for chunk in chunks:
            usage = chunk.usage
            if chunk.choice not in begun:
                begun[chunk.choice] = sse.template(self._chunk(chunk.choice, {"content": sse.BLANK}))
                yield self._chunk(chunk.choice, {"content": "", "role": "assistant"})
            if chunk.is_text:
                yield begun[chunk.choice] % orjson.dumps(chunk.text)
                continue
            if delta := _delta(chunk):
                yield self._chunk(chunk.choice, delta, chunk.logprobs)
            if chunk.finish_reason:
                yield self._chunk(chunk.choice, {"content": ""}, finish_reason=chunk.finish_reason)
        if self.include_usage:
            yield _event(self._envelope("chat.completion.chunk", [], to_usage(usage)))
        yield DONE

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        logprobs: tuple[TokenLogprob, ...] = (),
        finish_reason: str | None = None,
    ) -> bytes:
        choice = {
            "delta": delta,
            "finish_reason": finish_reason,
            "index": index,
            "logprobs": _logprobs(logprobs),
        }
        return _event(self._envelope("chat.completion.chunk", [choice], None))

    def _envelope(self, kind: str, choices: list[dict[str, Any]], usage: dict[str, Any] | None) -> dict[str, Any]:
        return {
            "choices": choices,
            "object": kind,
            "usage": usage,
            "created": self.created,
            "system_fingerprint": None,
            "model": self.model,
            "id": f"chatcmpl-{self.request_id}",
        }


def _event(data: dict[str, Any]) -> bytes:
    return b"data: %s\n\n" % orjson.dumps(data)


def _message(choice: Choice) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": choice.text}
    if choice.reasoning:
        message["reasoning_content"] = choice.reasoning
    if choice.tool_calls:
        message["tool_calls"] = [
            {
                "index": index,
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for index, call in enumerate(choice.tool_calls)
        ]
    return message


def _delta(chunk: Chunk) -> dict[str, Any]:
    """Empty for a chunk that only ends its answer."""
    delta: dict[str, Any] = {}
    if chunk.reasoning:
        delta |= {"content": chunk.text or None, "reasoning_content": chunk.reasoning}
    elif chunk.text or chunk.logprobs:
        delta["content"] = chunk.text
    if chunk.tool_calls:
        delta = {"content": None} | delta | {"tool_calls": [_tool_call(call) for call in chunk.tool_calls]}
    return delta


def _tool_call(delta: ToolCallDelta) -> dict[str, Any]:
    """The `id` of later pieces is an empty string and their `name` is absent: clients add up what they get."""
    function = {"name": delta.name, "arguments": delta.arguments} if delta.name else {"arguments": delta.arguments}
    return {"index": delta.index, "id": delta.id, "type": "function", "function": function}


def _logprobs(tokens: tuple[TokenLogprob, ...] | list[TokenLogprob]) -> dict[str, Any] | None:
    return {"content": [_logprob(token) | {"top_logprobs": _tops(token)} for token in tokens]} if tokens else None


def _logprob(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.token, "bytes": token.bytes, "logprob": token.logprob}


def _tops(token: TokenLogprob) -> list[dict[str, Any]]:
    return [_logprob(top) for top in token.top]


def to_usage(usage: Usage) -> dict[str, Any]:
    """What the engine has not said is left out."""
    media = {"image_tokens": usage.image_tokens, "video_tokens": usage.video_tokens}
    itemised = {name: count for name, count in media.items() if count}
    reasoning = usage.reasoning_tokens or 0
    prompt = {"text_tokens": usage.input_tokens - sum(itemised.values()), **itemised}
    if usage.image_tokens is None:  # images that nobody has counted may be in it
        del prompt["text_tokens"]
    if usage.cached_tokens is not None:
        prompt["cached_tokens"] = usage.cached_tokens
    answer = {"text_tokens": usage.output_tokens - reasoning}
    if reasoning:
        answer["reasoning_tokens"] = reasoning
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": prompt,
        "completion_tokens_details": answer,
    }
