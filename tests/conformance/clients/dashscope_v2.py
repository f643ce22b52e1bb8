"""The official SDK's new client, `dashscope.Client`."""

from __future__ import annotations

from typing import Any

import dashscope
from dashscope.v2 import errors

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


class Streamed:
    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.reasoning = ""
        self.calls = Calls()
        self.finish: str | None = None
        self.tokens: tuple[int, int] | None = None

    def add(self, chunk: Any) -> None:
        choice = chunk.choices[0]
        self.pieces.append(choice.delta.content or "")
        self.reasoning += choice.delta.reasoning_content or ""
        for call in choice.delta.tool_calls or []:
            self.calls.add(call.index, call.id, call.function.name, call.function.arguments)
        self.finish = choice.finish_reason
        self.tokens = (chunk.usage.input_tokens, chunk.usage.output_tokens)

    def seen(self) -> Seen:
        return seen(
            "".join(self.pieces),
            self.finish,
            tokens=self.tokens,
            pieces=self.pieces,
            reasoning=self.reasoning,
            calls=self.calls.list,
        )


def create(ask: Ask, **options: Any) -> Any:
    with client(ask) as opened:
        return opened.chat.completions.create(**{**pictured(ask), **options})


def streamed(ask: Ask, **options: Any) -> Seen:
    result = Streamed()
    with client(ask) as opened:
        for chunk in opened.chat.completions.create(**{**pictured(ask), **options}, stream=True):
            result.add(chunk)
    return result.seen()


def chat(ask: Ask) -> Seen:
    return whole(create(ask))


def stream(ask: Ask) -> Seen:
    return streamed(ask)


def cumulative(ask: Ask) -> Seen:
    result = streamed(ask, incremental_output=False)
    return {**result, "text": result["pieces"][-1]}


async def aio(ask: Ask) -> Seen:
    async with dashscope.AsyncClient(api_key=ask.key, base_url=ask.native) as opened:
        return whole(await opened.chat.completions.create(**pictured(ask)))


async def aio_stream(ask: Ask) -> Seen:
    result = Streamed()
    async with dashscope.AsyncClient(api_key=ask.key, base_url=ask.native) as opened:
        chunks: Any = await opened.chat.completions.create(**pictured(ask), stream=True)
        async for chunk in chunks:
            result.add(chunk)
    return result.seen()


def text_path(ask: Ask) -> Seen:
    return whole(create(ask, messages=[{"role": "user", "content": ask.prompt}]))


def image_url(ask: Ask) -> Seen:
    return whole(create(ask, messages=turn(ask, {"type": "image", "url": ask.image_url})))


def local_file(ask: Ask) -> Seen:
    return whole(create(ask, messages=turn(ask, {"type": "image", "url": f"file://{ask.image_path}"})))


def frames(ask: Ask) -> Seen:
    return whole(create(ask, messages=turn(ask, {"type": "video", "frames": ask.frames, "fps": 2})))


def video(ask: Ask) -> Seen:
    return whole(create(ask, messages=turn(ask, {"type": "video", "url": ask.video_url, "fps": 2})))


def tools(ask: Ask) -> Seen:
    turns: list[Any] = turn(ask, prompt=TOOL_PROMPT)
    first = create(ask, messages=turns, tools=[TOOL]).choices[0]
    call = first.message.tool_calls[0]
    turns += [first.message.model_dump(exclude_none=True)]
    turns += [{"role": "tool", "content": TOOL_RESULT, "tool_call_id": call.id}]
    flat = [{"id": call.id, "name": call.function.name, "arguments": call.function.arguments}]
    return {**whole(create(ask, messages=turns, tools=[TOOL])), "calls": flat, "called": first.finish_reason}


def tools_stream(ask: Ask) -> Seen:
    result = streamed(ask, messages=turn(ask, prompt=TOOL_PROMPT), tools=[TOOL])
    return {**result, "called": result["finish"]}


def thinking(ask: Ask) -> Seen:
    return streamed(ask, enable_thinking=True)


def json_object(ask: Ask) -> Seen:
    messages = turn(ask, {"type": "image", "url": ask.image}, prompt=JSON_PROMPT)
    return whole(create(ask, messages=messages, response_format={"type": "json_object"}))


def json_schema(ask: Ask) -> Seen:
    messages = turn(ask, {"type": "image", "url": ask.image}, prompt=JSON_PROMPT)
    wanted = {"type": "json_schema", "json_schema": {"name": "figure", "schema": SCHEMA, "strict": True}}
    return whole(create(ask, messages=messages, response_format=wanted))


def wrong_key(ask: Ask) -> Seen:
    try:
        with client(ask, api_key=WRONG_KEY) as opened:
            opened.chat.completions.create(**pictured(ask))
    except errors.AuthenticationError as error:
        return failed(error.status_code, error.code, str(error))
    raise AssertionError("it was let in")


def wrong_parameter(ask: Ask) -> Seen:
    try:
        streamed(ask, temperature=2.5)
    except errors.BadRequestError as error:
        return failed(error.status_code, error.code, str(error))
    raise AssertionError("it was accepted")


def broken_stream(ask: Ask) -> Seen:
    result = Streamed()
    try:
        with client(ask) as opened:
            for chunk in opened.chat.completions.create(**pictured(ask), stream=True):
                result.add(chunk)
    except errors.DashScopeError as error:
        return {**failed(error.status_code, error.code, str(error)), "pieces": result.pieces}
    raise AssertionError("nobody said that it broke")


def models(ask: Ask) -> Seen:
    with client(ask) as opened:
        names = [each.model for each in opened.models.list(page_size=50).models]
        return {"found": ask.model in names, "one": opened.models.get(ask.model).model == ask.model}


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


def tokens(ask: Ask) -> Seen:
    with client(ask) as opened:
        count = opened.tokenization.count(model=ask.model, messages=[{"role": "user", "content": ask.prompt}])
    return {"ids": len(count.token_ids), "pieces": len(count.tokens), "tokens": count.input_tokens}


def openai_protocol(ask: Ask) -> Seen:
    with client(ask, base_url=ask.compatible, protocol="openai") as opened:
        return whole(opened.chat.completions.create(**pictured(ask)))


if __name__ == "__main__":
    serve(
        {
            "chat": chat,
            "stream": stream,
            "cumulative": cumulative,
            "async": aio,
            "async stream": aio_stream,
            "text path": text_path,
            "image URL": image_url,
            "local file": local_file,
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
            "tokens": tokens,
            "compatible": openai_protocol,
        }
    )
