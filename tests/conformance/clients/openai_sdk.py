"""The OpenAI SDK in compatible mode, with what DashScope adds in `extra_body`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import openai

from tests.conformance.clients.driver import (
    JSON_PROMPT,
    SCHEMA,
    TOOL,
    TOOL_PROMPT,
    TOOL_RESULT,
    WRONG_KEY,
    Ask,
    Calls,
    Seen,
    failed,
    seen,
    serve,
)

BATCH_WITHIN_S = 60


def client(ask: Ask, **options: Any) -> Any:
    return openai.OpenAI(**{"api_key": ask.key, "base_url": ask.compatible, "max_retries": 0, **options})


def turn(ask: Ask, *parts: dict[str, Any], prompt: str = "") -> list[dict[str, Any]]:
    return [{"role": "user", "content": [*parts, {"type": "text", "text": prompt or ask.prompt}]}]


def picture(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def create(ask: Ask, *parts: dict[str, Any], **options: Any) -> Any:
    messages = options.pop("messages", None) or turn(ask, *parts)
    with client(ask) as opened:
        return opened.chat.completions.create(model=ask.model, messages=messages, **options)


def whole(answer: Any) -> Seen:
    choice = answer.choices[0]
    return seen(
        choice.message.content,
        choice.finish_reason,
        tokens=(answer.usage.prompt_tokens, answer.usage.completion_tokens),
        total=answer.usage.total_tokens,
        request_id=answer.id.removeprefix("chatcmpl-"),
        reasoning=getattr(choice.message, "reasoning_content", None),
    )


class Streamed:
    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.reasoning = ""
        self.calls = Calls()
        self.finish: str | None = None
        self.tokens: tuple[int, int] | None = None

    def add(self, chunk: Any) -> None:
        if chunk.usage:
            self.tokens = (chunk.usage.prompt_tokens, chunk.usage.completion_tokens)
        for choice in chunk.choices:
            self.pieces.append(choice.delta.content or "")
            self.reasoning += getattr(choice.delta, "reasoning_content", None) or ""
            for call in choice.delta.tool_calls or []:
                self.calls.add(call.index, call.id, call.function.name, call.function.arguments)
            self.finish = choice.finish_reason

    def seen(self) -> Seen:
        return seen(
            "".join(self.pieces),
            self.finish,
            tokens=self.tokens,
            pieces=self.pieces,
            reasoning=self.reasoning,
            calls=self.calls.list,
        )


def streamed(ask: Ask, *parts: dict[str, Any], **options: Any) -> Seen:
    result = Streamed()
    messages = options.pop("messages", None) or turn(ask, *parts)
    with client(ask) as opened:
        usage = {"include_usage": True}
        for chunk in opened.chat.completions.create(
            model=ask.model, messages=messages, stream=True, stream_options=usage, **options
        ):
            result.add(chunk)
    return result.seen()


def chat(ask: Ask) -> Seen:
    return whole(create(ask, picture(ask.image)))


def stream(ask: Ask) -> Seen:
    return streamed(ask, picture(ask.image))


async def aio(ask: Ask) -> Seen:
    async with openai.AsyncOpenAI(api_key=ask.key, base_url=ask.compatible) as opened:
        messages: Any = turn(ask, picture(ask.image))
        return whole(await opened.chat.completions.create(model=ask.model, messages=messages))


async def aio_stream(ask: Ask) -> Seen:
    result = Streamed()
    async with openai.AsyncOpenAI(api_key=ask.key, base_url=ask.compatible) as opened:
        messages: Any = turn(ask, picture(ask.image))
        usage: Any = {"include_usage": True}
        async for chunk in await opened.chat.completions.create(
            model=ask.model, messages=messages, stream=True, stream_options=usage
        ):
            result.add(chunk)
    return result.seen()


def text_path(ask: Ask) -> Seen:
    """Text alone, and a client that knows no other prefix than `/v1`."""
    with client(ask, base_url=f"{ask.origin}/v1") as opened:
        messages = [{"role": "user", "content": ask.prompt}]
        return whole(opened.chat.completions.create(model=ask.model, messages=messages))


def image_url(ask: Ask) -> Seen:
    return whole(create(ask, picture(ask.image_url)))


def frames(ask: Ask) -> Seen:
    return whole(create(ask, {"type": "video", "video": ask.frames, "fps": 2}))


def video(ask: Ask) -> Seen:
    return whole(create(ask, {"type": "video_url", "video_url": {"url": ask.video_url}, "fps": 2}))


def tools(ask: Ask) -> Seen:
    turns: list[Any] = turn(ask, prompt=TOOL_PROMPT)
    first = create(ask, messages=turns, tools=[TOOL]).choices[0]
    call = first.message.tool_calls[0]
    turns += [first.message, {"role": "tool", "content": TOOL_RESULT, "tool_call_id": call.id}]
    flat = [{"id": call.id, "name": call.function.name, "arguments": call.function.arguments}]
    return {**whole(create(ask, messages=turns, tools=[TOOL])), "calls": flat, "called": first.finish_reason}


def tools_stream(ask: Ask) -> Seen:
    result = streamed(ask, messages=turn(ask, prompt=TOOL_PROMPT), tools=[TOOL])
    return {**result, "called": result["finish"]}


def thinking(ask: Ask) -> Seen:
    return streamed(ask, picture(ask.image), extra_body={"enable_thinking": True, "top_k": 20})


def json_object(ask: Ask) -> Seen:
    messages = turn(ask, picture(ask.image), prompt=JSON_PROMPT)
    return whole(create(ask, messages=messages, response_format={"type": "json_object"}))


def json_schema(ask: Ask) -> Seen:
    messages = turn(ask, picture(ask.image), prompt=JSON_PROMPT)
    wanted = {"type": "json_schema", "json_schema": {"name": "figure", "schema": SCHEMA, "strict": True}}
    return whole(create(ask, messages=messages, response_format=wanted))


def told(error: Any) -> Seen:
    return failed(getattr(error, "status_code", None), error.code, error.message)


def wrong_key(ask: Ask) -> Seen:
    try:
        client(ask, api_key=WRONG_KEY).chat.completions.create(model=ask.model, messages=turn(ask))
    except openai.AuthenticationError as error:
        return told(error)
    raise AssertionError("it was let in")


def wrong_parameter(ask: Ask) -> Seen:
    try:
        streamed(ask, picture(ask.image), temperature=2.5)
    except openai.BadRequestError as error:
        return told(error)
    raise AssertionError("it was accepted")


def broken_stream(ask: Ask) -> Seen:
    result = Streamed()
    try:
        with client(ask) as opened:
            messages = turn(ask, picture(ask.image))
            for chunk in opened.chat.completions.create(model=ask.model, messages=messages, stream=True):
                result.add(chunk)
    except openai.APIError as error:
        return {**told(error), "pieces": [piece for piece in result.pieces if piece]}
    raise AssertionError("nobody said that it broke")


def models(ask: Ask) -> Seen:
    with client(ask) as opened:
        names = [each.id for each in opened.models.list()]
        return {"found": ask.model in names, "one": opened.models.retrieve(ask.model).id == ask.model}


def files(ask: Ask) -> Seen:
    with client(ask) as opened:
        path = Path(ask.lines_path)
        uploaded = opened.files.create(file=path, purpose="batch")
        listed = [each.id for each in opened.files.list()]
        size = opened.files.retrieve(uploaded.id).bytes
        same = opened.files.content(uploaded.id).read() == path.read_bytes()
        deleted = opened.files.delete(uploaded.id).deleted
        try:
            opened.files.retrieve(uploaded.id)
        except openai.APIStatusError as error:
            gone = error.status_code
        return {"listed": uploaded.id in listed, "size": size, "same": same, "deleted": deleted, "gone": gone}


def batch(ask: Ask) -> Seen:
    with client(ask) as opened:
        lines = opened.files.create(file=Path(ask.lines_path), purpose="batch")
        made = opened.batches.create(
            input_file_id=lines.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"ds_name": "x"}
        )
        first, until = made.status, time.monotonic() + BATCH_WITHIN_S
        while made.status not in ("completed", "failed", "expired", "cancelled") and time.monotonic() < until:
            time.sleep(0.2)
            made = opened.batches.retrieve(made.id)
        return {
            "first": first,
            "last": made.status,
            "counts": made.request_counts.model_dump(),
            "output": opened.files.content(made.output_file_id).text.splitlines() if made.output_file_id else [],
            "errors": opened.files.content(made.error_file_id).text.splitlines() if made.error_file_id else [],
            "listed": made.id in [each.id for each in opened.batches.list()],
        }


if __name__ == "__main__":
    serve(
        {
            "chat": chat,
            "stream": stream,
            "async": aio,
            "async stream": aio_stream,
            "text path": text_path,
            "image URL": image_url,
            "frames": frames,
            "video": video,
            "tools": tools,
            "tools stream": tools_stream,
            "thinking": thinking,
            "JSON": json_object,
            "JSON schema": json_schema,
            "wrong key": wrong_key,
            "wrong parameter": wrong_parameter,
            "broken stream": broken_stream,
            "models": models,
            "files": files,
            "batch": batch,
        }
    )
