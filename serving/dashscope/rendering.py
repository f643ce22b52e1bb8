from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import orjson
from msgspec.structs import replace

from serving import sse
from serving.dashscope.messages import Form
from serving.dashscope.translate import Translated
from serving.generation import Answer, Choice, Chunk, Timeline, TokenLogprob, ToolCall, ToolCallDelta, Usage


@dataclass(frozen=True, slots=True)
class Rendering:
    """How one request wants its answer written.

    `indexed` numbers the choices, `thinking` has the text path write what was thought even where it is nothing,
    `text_result` is that path's legacy form. `sizes` holds, once the answer has begun, the sizes at which the model saw
    the images, if they are to be told. `output_text` adds `output.text` to a whole multimodal answer, which the cloud
    does not send; scripts read it.
    """

    request_id: str
    form: Form
    incremental: bool = True
    output_text: bool = True
    indexed: bool = False
    thinking: bool = False
    text_result: bool = False
    sizes: Timeline | None = None

    @classmethod
    def of(cls, translated: Translated, form: Form, *, output_text: bool) -> Rendering:
        asked = translated.generation
        return cls(
            asked.request_id,
            form,
            translated.incremental,
            output_text,
            indexed=asked.sampling.n > 1 or (form == "text" and asked.tools is not None),
            thinking=bool(asked.thinking.enabled),
            text_result=translated.text_result,
            sizes=asked.timeline if translated.image_sizes else None,
        )

    def whole(self, answer: Answer) -> bytes:
        return self._body(self.output(answer), to_usage(answer.usage))

    def output(self, answer: Answer) -> dict[str, Any]:
        if self.text_result:
            first = answer.choices[0]
            return {"finish_reason": first.finish_reason, "text": first.text}
        choices = [self._whole_choice(choice, number) for number, choice in enumerate(answer.choices)]
        output: dict[str, Any] = {"choices": choices}
        if self.output_text and self.form == "multimodal":
            output["text"] = answer.text
        return output

    def _whole_choice(self, choice: Choice, number: int) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": self._whole_content(choice)}
        if choice.reasoning or (self.thinking and self.form == "text"):
            message["reasoning_content"] = choice.reasoning
        if choice.tool_calls:
            message["tool_calls"] = _calls(choice.tool_calls)
        written: dict[str, Any] = {"finish_reason": choice.finish_reason, "message": message}
        return self._with_details(written, number, choice.logprobs)

    def _whole_content(self, choice: Choice) -> object:
        """There is a text even if it is empty, because clients index it; an answer of tool calls alone has none."""
        if self.form == "text":
            return choice.text
        if choice.tool_calls and not choice.text:
            return []
        return [{"text": choice.text}, *self._sizes()]

    async def frames(self, chunks: AsyncIterator[Chunk]) -> AsyncGenerator[bytes, None]:
        """One frame per piece, then one with the finish reason; a last piece of a tool call has the reason itself. If
        not incremental, each frame has all that came before."""
        event_id = 0
        answer = Answer()
        prepared: dict[int, bytes] = {}
        async with aclosing(_held_back(chunks)) as pieces:
            async for piece in pieces:
                shown = piece
                if not self.incremental:
                    answer.add(piece)
                    shown = _so_far(answer.choices[piece.choice], piece)
                event_id += 1
                if not shown.is_text:
                    yield sse.frame(event_id, "result", 200, self._body(self._frame(shown), to_usage(piece.usage)))
                    continue
                if shown.choice not in prepared:
                    prepared[shown.choice] = self._prepared(shown.choice)
                yield prepared[shown.choice] % (event_id, orjson.dumps(shown.text), orjson.dumps(to_usage(piece.usage)))

    def _prepared(self, choice: int) -> bytes:
        """A frame of a piece of text, without its number, its text and its usage: all that differs from one to the
        next."""
        body = self._body(self._frame(Chunk(sse.BLANK, Usage(), None, choice)), sse.BLANK)
        return b"id:%d\n" + sse.template(sse.unnumbered("result", 200, body))

    def _frame(self, chunk: Chunk) -> dict[str, Any]:
        reason = chunk.finish_reason or "null"
        if self.text_result:
            return {"finish_reason": reason, "text": chunk.text}
        message: dict[str, Any] = {"content": self._frame_content(chunk)}
        if chunk.reasoning or (self.thinking and self.form == "text"):
            message["reasoning_content"] = chunk.reasoning
        if chunk.tool_calls:
            message["tool_calls"] = [_delta(delta) for delta in chunk.tool_calls]
        message["role"] = "assistant"
        choice: dict[str, Any] = {"message": message, "finish_reason": reason}
        return {"choices": [self._with_details(choice, chunk.choice, chunk.logprobs)]}

    def _frame_content(self, chunk: Chunk) -> object:
        if self.form == "text":
            return chunk.text
        sizes = self._sizes() if chunk.finish_reason else []
        return [{"text": chunk.text}, *sizes] if chunk.text or chunk.logprobs or sizes else []

    def _sizes(self) -> list[dict[str, Any]]:
        if self.sizes is None:
            return []
        known = [size for size in self.sizes.seen if size is not None]
        return [{"image_hw": [[height, width] for width, height in known]}] if known else []

    def _with_details(self, choice: dict[str, Any], number: int, logprobs: Iterable[TokenLogprob]) -> dict[str, Any]:
        if self.indexed:
            choice["index"] = number
        if tokens := [_token(token) for token in logprobs]:
            choice["logprobs"] = {"content": tokens}
        return choice

    def _body(self, output: dict[str, Any], usage: object) -> bytes:
        return orjson.dumps({"output": output, "usage": usage, "request_id": self.request_id})


async def _held_back(chunks: AsyncIterator[Chunk]) -> AsyncGenerator[Chunk, None]:
    """Chunks that say something. A piece of a tool call waits for the next chunk of its answer: if that is only the
    end, the two are one."""
    held: dict[int, Chunk] = {}
    async for chunk in chunks:
        last = held.pop(chunk.choice, None)
        empty = not (chunk.text or chunk.reasoning or chunk.tool_calls or chunk.logprobs)
        if empty and chunk.finish_reason and last is not None:
            yield replace(last, usage=chunk.usage, finish_reason=chunk.finish_reason)
            continue
        if last is not None:
            yield last
        if chunk.tool_calls and not chunk.finish_reason:
            held[chunk.choice] = chunk
        elif chunk.finish_reason and not empty:
            yield replace(chunk, finish_reason=None)
            yield Chunk("", chunk.usage, chunk.finish_reason, chunk.choice)
        elif chunk.finish_reason or not empty:
            yield chunk


def _so_far(choice: Choice, chunk: Chunk) -> Chunk:
    calls = tuple(
        ToolCallDelta(index, call.arguments, call.id, call.name) for index, call in enumerate(choice.tool_calls)
    )
    return replace(
        chunk, text=choice.text, reasoning=choice.reasoning, tool_calls=calls, logprobs=tuple(choice.logprobs)
    )


def _calls(calls: tuple[ToolCall, ...]) -> list[dict[str, Any]]:
    return [_delta(ToolCallDelta(index, call.arguments, call.id, call.name)) for index, call in enumerate(calls)]


def _delta(delta: ToolCallDelta) -> dict[str, Any]:
    """Only the first piece of a call has a name; the id is there in each, empty in the later ones."""
    function = {"name": delta.name, "arguments": delta.arguments} if delta.name else {"arguments": delta.arguments}
    return {"index": delta.index, "id": delta.id, "type": "function", "function": function}


def _token(token: TokenLogprob) -> dict[str, Any]:
    alternatives = [{"token": each.token, "bytes": each.bytes, "logprob": each.logprob} for each in token.top]
    return {"token": token.token, "bytes": token.bytes, "logprob": token.logprob, "top_logprobs": alternatives}


def to_usage(usage: Usage) -> dict[str, Any]:
    """The cloud's newest shape; image and video tokens are part of `input_tokens` and itemised once they are known."""
    wire: dict[str, Any] = {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "output_tokens_details": {"text_tokens": usage.output_tokens - (usage.reasoning_tokens or 0)},
    }
    if usage.reasoning_tokens is not None:
        wire["output_tokens_details"]["reasoning_tokens"] = usage.reasoning_tokens
    if usage.image_tokens is not None or usage.video_tokens is not None:
        media = (usage.image_tokens or 0) + (usage.video_tokens or 0)
        wire["input_tokens_details"] = {"text_tokens": usage.input_tokens - media}
    for name, tokens in (("image_tokens", usage.image_tokens), ("video_tokens", usage.video_tokens)):
        if tokens:
            wire[name] = wire["input_tokens_details"][name] = tokens
    if usage.cached_tokens is not None:
        wire["prompt_tokens_details"] = {"cached_tokens": usage.cached_tokens}
    return wire
