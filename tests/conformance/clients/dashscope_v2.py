"""The official SDK's new client, `dashscope.Client`."""

from __future__ import annotations

from typing import Any

import dashscope
from dashscope.v2 import errors

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


def client(ask: Ask, **options: Any) -> Any:
    return dashscope.Client(**{"api_key": ask.key, "base_url": ask.native, **options})


def turn(ask: Ask, *parts: dict[str, Any], prompt: str = "") -> list[dict[str, Any]]:
    content = [*parts, {"type": "text", "text": prompt or ask.prompt}]
    return [{"role": "user", "content": content}]


def pictured(ask: Ask) -> dict[str, Any]:
    return {"model": ask.model, "messages": turn(ask, {"type": "image", "url": ask.image})}


def whole(answer: Any) -> Seen:
    choice = answer.choices[0]
    return seen(
        choice.message.content,
        choice.finish_reason,
        tokens=(answer.usage.input_tokens, answer.usage.output_tokens),
        total=answer.usage.total_tokens,
        request_id=answer.request_id,
        reasoning=choice.message.reasoning_content,
    )


class Chunks(Streamed):
    def chunk(self, chunk: Any) -> None:
        self.add(chunk.choices[0])
        self.tokens = (chunk.usage.input_tokens, chunk.usage.output_tokens)


def create(ask: Ask, **options: Any) -> Any:
    with client(ask) as opened:
        return opened.chat.completions.create(**{**pictured(ask), **options})


def streamed(ask: Ask, **options: Any) -> Seen:
    result = Chunks()
    with client(ask) as opened:
        for chunk in opened.chat.completions.create(**{**pictured(ask), **options}, stream=True):
            result.chunk(chunk)
    return result.seen()


@flow("chat")
def chat(ask: Ask) -> Seen:
    return whole(create(ask))


@flow("stream")
def stream(ask: Ask) -> Seen:
    return streamed(ask)


@flow("cumulative")
def cumulative(ask: Ask) -> Seen:
    result = streamed(ask, incremental_output=False)
    return {**result, "text": result["pieces"][-1]}


@flow("async")
async def aio(ask: Ask) -> Seen:
    async with dashscope.AsyncClient(api_key=ask.key, base_url=ask.native) as opened:
        return whole(await opened.chat.completions.create(**pictured(ask)))


@flow("async stream")
async def aio_stream(ask: Ask) -> Seen:
    result = Chunks()
    async with dashscope.AsyncClient(api_key=ask.key, base_url=ask.native) as opened:
        chunks: Any = await opened.chat.completions.create(**pictured(ask), stream=True)
        async for chunk in chunks:
            result.chunk(chunk)
    return result.seen()


@flow("text path")
def text_path(ask: Ask) -> Seen:
    return whole(create(ask, messages=[{"role": "user", "content": ask.prompt}]))


@flow("image URL")
def image_url(ask: Ask) -> Seen:
    return whole(create(ask, messages=turn(ask, {"type": "image", "url": ask.image_url})))


@flow("local file")
def local_file(ask: Ask) -> Seen:
    return whole(create(ask, messages=turn(ask, {"type": "image", "url": f"file://{ask.image_path}"})))


@flow("two images")
def two_images(ask: Ask) -> Seen:
    pictures = ({"type": "image", "url": ask.image}, {"type": "image", "url": ask.second})
    return whole(create(ask, messages=turn(ask, *pictures, prompt=ask.comparison)))


@flow("frames")
def frames(ask: Ask) -> Seen:
    return whole(create(ask, messages=turn(ask, {"type": "video", "frames": ask.frames, "fps": 2})))


@flow("video")
def video(ask: Ask) -> Seen:
    return whole(create(ask, messages=turn(ask, {"type": "video", "url": ask.video_url, "fps": 2})))


@flow("tools")
def tools(ask: Ask) -> Seen:
    turns: list[Any] = turn(ask, prompt=TOOL_PROMPT)
    first = create(ask, messages=turns, **ask.tools).choices[0]
    call = first.message.tool_calls[0]
    turns += [first.message.model_dump(exclude_none=True)]
    turns += [{"role": "tool", "content": TOOL_RESULT, "tool_call_id": call.id}]
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
    return streamed(ask, enable_thinking=True)


@flow("JSON")
def json_object(ask: Ask) -> Seen:
    messages = turn(ask, {"type": "image", "url": ask.image}, prompt=ask.json_prompt)
    return whole(create(ask, messages=messages, response_format={"type": "json_object"}))


@flow("JSON schema")
def json_schema(ask: Ask) -> Seen:
    messages = turn(ask, {"type": "image", "url": ask.image}, prompt=ask.json_prompt)
    wanted = {"type": "json_schema", "json_schema": {"name": "figure", "schema": ask.schema, "strict": True}}
    return whole(create(ask, messages=messages, response_format=wanted))


@flow("wrong key")
def wrong_key(ask: Ask) -> Seen:
    try:
        with client(ask, api_key=WRONG_KEY) as opened:
            opened.chat.completions.create(**pictured(ask))
    except errors.AuthenticationError as error:
        return failed(error.status_code, error.code, str(error))
    raise AssertionError("it was let in")


@flow("wrong parameter")
def wrong_parameter(ask: Ask) -> Seen:
    try:
        streamed(ask, temperature=2.5)
    except errors.BadRequestError as error:
        return failed(error.status_code, error.code, str(error))
    raise AssertionError("it was accepted")


@flow("broken stream")
def broken_stream(ask: Ask) -> Seen:
    result = Chunks()
    try:
        with client(ask) as opened:
            for chunk in opened.chat.completions.create(**pictured(ask), stream=True):
                result.chunk(chunk)
    except errors.DashScopeError as error:
        return {**failed(error.status_code, error.code, str(error)), "pieces": result.pieces}
    raise AssertionError("nobody said that it broke")


@flow("models")
def models(ask: Ask) -> Seen:
    with client(ask) as opened:
        names = [each.model for each in opened.models.list(page_size=50).models]
        return {"found": ask.model in names, "one": opened.models.get(ask.model).model == ask.model}


@flow("files")
def files(ask: Ask) -> Seen:
    with client(ask) as opened:
        uploaded = opened.files.upload(file_path=ask.image_path, purpose="file-extract")
        listed = [each.file_id for each in opened.files.list(page_size=50).files]
        size = opened.files.get(uploaded.file_id).size
        deleted = opened.files.delete(uploaded.file_id).deleted
        try:
            opened.files.get(uploaded.file_id)
        except errors.NotFoundError as error:
            return {"listed": uploaded.file_id in listed, "size": size, "deleted": deleted, "gone": error.status_code}
    raise AssertionError("the file is still there")


@flow("tokens")
def tokens(ask: Ask) -> Seen:
    with client(ask) as opened:
        count = opened.tokenization.count(model=ask.model, messages=[{"role": "user", "content": ask.prompt}])
    return {"ids": len(count.token_ids), "pieces": len(count.tokens), "tokens": count.input_tokens}


@flow("compatible")
def openai_protocol(ask: Ask) -> Seen:
    with client(ask, base_url=ask.compatible, protocol="openai") as opened:
        return whole(opened.chat.completions.create(**pictured(ask)))


if __name__ == "__main__":
    serve()
