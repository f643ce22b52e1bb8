"""The OpenAI SDK in compatible mode, with what DashScope adds in `extra_body`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import openai

from tests.conformance.clients.driver import (
    TOOL_PROMPT,
    TOOL_RESULT,
    WRONG_KEY,
    Ask,
    Seen,
    Streamed,
    failed,
    flow,
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


class Chunks(Streamed):
    def chunk(self, chunk: Any) -> None:
        if chunk.usage:
            self.tokens = (chunk.usage.prompt_tokens, chunk.usage.completion_tokens)
        for choice in chunk.choices:
            self.add(choice)


def streamed(ask: Ask, *parts: dict[str, Any], **options: Any) -> Seen:
    result = Chunks()
    messages = options.pop("messages", None) or turn(ask, *parts)
    with client(ask) as opened:
        usage = {"include_usage": True}
        for chunk in opened.chat.completions.create(
            model=ask.model, messages=messages, stream=True, stream_options=usage, **options
        ):
            result.chunk(chunk)
    return result.seen()


@flow("chat")
def chat(ask: Ask) -> Seen:
    return whole(create(ask, picture(ask.image)))


@flow("stream")
def stream(ask: Ask) -> Seen:
    return streamed(ask, picture(ask.image))


@flow("async")
async def aio(ask: Ask) -> Seen:
    async with openai.AsyncOpenAI(api_key=ask.key, base_url=ask.compatible) as opened:
        messages: Any = turn(ask, picture(ask.image))
        return whole(await opened.chat.completions.create(model=ask.model, messages=messages))


@flow("async stream")
async def aio_stream(ask: Ask) -> Seen:
    result = Chunks()
    async with openai.AsyncOpenAI(api_key=ask.key, base_url=ask.compatible) as opened:
        messages: Any = turn(ask, picture(ask.image))
        usage: Any = {"include_usage": True}
        async for chunk in await opened.chat.completions.create(
            model=ask.model, messages=messages, stream=True, stream_options=usage
        ):
            result.chunk(chunk)
    return result.seen()


@flow("text path")
def text_path(ask: Ask) -> Seen:
    """Text alone, and a client that knows no other prefix than `/v1`."""
    with client(ask, base_url=f"{ask.origin}/v1") as opened:
        messages = [{"role": "user", "content": ask.prompt}]
        return whole(opened.chat.completions.create(model=ask.model, messages=messages))


@flow("image URL")
def image_url(ask: Ask) -> Seen:
    return whole(create(ask, picture(ask.image_url)))


@flow("two images")
def two_images(ask: Ask) -> Seen:
    return whole(create(ask, messages=turn(ask, picture(ask.image), picture(ask.second), prompt=ask.comparison)))


@flow("frames")
def frames(ask: Ask) -> Seen:
    return whole(create(ask, {"type": "video", "video": ask.frames, "fps": 2}))


@flow("video")
def video(ask: Ask) -> Seen:
    return whole(create(ask, {"type": "video_url", "video_url": {"url": ask.video_url}, "fps": 2}))


@flow("tools")
def tools(ask: Ask) -> Seen:
    turns: list[Any] = turn(ask, prompt=TOOL_PROMPT)
    first = create(ask, messages=turns, **ask.tools).choices[0]
    call = first.message.tool_calls[0]
    turns += [first.message, {"role": "tool", "content": TOOL_RESULT, "tool_call_id": call.id}]
    flat = [{"id": call.id, "name": call.function.name, "arguments": call.function.arguments}]
    return {
        **whole(create(ask, messages=turns, **ask.tools | {"tool_choice": "auto"})),
        "calls": flat,
        "called": first.finish_reason,
    }


@flow("tools stream")
def tools_stream(ask: Ask) -> Seen:
    result = streamed(ask, messages=turn(ask, prompt=TOOL_PROMPT), **ask.tools)
    return {**result, "called": result["finish"]}


@flow("thinking")
def thinking(ask: Ask) -> Seen:
    return streamed(ask, picture(ask.image), extra_body={"enable_thinking": True, "top_k": 20})


@flow("JSON")
def json_object(ask: Ask) -> Seen:
    messages = turn(ask, picture(ask.image), prompt=ask.json_prompt)
    return whole(create(ask, messages=messages, response_format={"type": "json_object"}))


@flow("JSON schema")
def json_schema(ask: Ask) -> Seen:
    messages = turn(ask, picture(ask.image), prompt=ask.json_prompt)
    wanted = {"type": "json_schema", "json_schema": {"name": "figure", "schema": ask.schema, "strict": True}}
    return whole(create(ask, messages=messages, response_format=wanted))


def told(error: Any) -> Seen:
    return failed(getattr(error, "status_code", None), error.code, error.message)


@flow("wrong key")
def wrong_key(ask: Ask) -> Seen:
    try:
        client(ask, api_key=WRONG_KEY).chat.completions.create(model=ask.model, messages=turn(ask))
    except openai.AuthenticationError as error:
        return told(error)
    raise AssertionError("it was let in")


@flow("wrong parameter")
def wrong_parameter(ask: Ask) -> Seen:
    try:
        streamed(ask, picture(ask.image), temperature=2.5)
    except openai.BadRequestError as error:
        return told(error)
    raise AssertionError("it was accepted")


@flow("broken stream")
def broken_stream(ask: Ask) -> Seen:
    result = Chunks()
    try:
        with client(ask) as opened:
            messages = turn(ask, picture(ask.image))
            for chunk in opened.chat.completions.create(model=ask.model, messages=messages, stream=True):
                result.chunk(chunk)
    except openai.APIError as error:
        return {**told(error), "pieces": [piece for piece in result.pieces if piece]}
    raise AssertionError("nobody said that it broke")


@flow("models")
def models(ask: Ask) -> Seen:
    with client(ask) as opened:
        names = [each.id for each in opened.models.list()]
        return {"found": ask.model in names, "one": opened.models.retrieve(ask.model).id == ask.model}


@flow("files")
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


@flow("batch")
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
    serve()
