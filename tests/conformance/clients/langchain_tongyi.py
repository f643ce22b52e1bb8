"""LangChain's `ChatTongyi`, which takes the native protocol for every model with `vl` in its name."""

from __future__ import annotations

from typing import Any

import dashscope
from langchain_community.chat_models.tongyi import ChatTongyi  # type: ignore[import-not-found]
from langchain_core.messages import HumanMessage, ToolMessage  # type: ignore[import-not-found]

from tests.conformance.clients.driver import (
    TOOL,
    TOOL_PROMPT,
    TOOL_RESULT,
    WRONG_KEY,
    Ask,
    Seen,
    failed,
    flow,
    seen,
    serve,
)


def model(ask: Ask, **options: Any) -> Any:
    dashscope.base_http_api_url = ask.native
    return ChatTongyi(**{"model": ask.model, "dashscope_api_key": ask.key, "max_retries": 1, **options})


def turn(ask: Ask, **part: Any) -> Any:
    return HumanMessage(content=[part, {"text": ask.prompt}] if part else [{"text": TOOL_PROMPT}])


def flat(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def whole(message: Any) -> Seen:
    told = message.response_metadata
    usage = told["token_usage"]
    tokens = (usage["input_tokens"], usage["output_tokens"])
    return seen(flat(message.content), told["finish_reason"], tokens=tokens, request_id=told["request_id"])


def pieces(chunks: Any) -> Seen:
    told: list[str] = []
    total = None
    for chunk in chunks:
        told.append(flat(chunk.content))
        total = chunk if total is None else total + chunk
    assert total is not None
    calls = [{"id": call["id"], "name": call["name"], "arguments": call["args"]} for call in total.tool_call_chunks]
    finish = total.response_metadata.get("finish_reason")
    return seen("".join(told), finish, pieces=told, calls=calls)


@flow("chat")
def chat(ask: Ask) -> Seen:
    return whole(model(ask).invoke([turn(ask, image=ask.image)]))


@flow("stream")
def stream(ask: Ask) -> Seen:
    return pieces(model(ask, streaming=True).stream([turn(ask, image=ask.image)]))


@flow("async")
async def aio(ask: Ask) -> Seen:
    return whole(await model(ask).ainvoke([turn(ask, image=ask.image)]))


@flow("async stream")
async def aio_stream(ask: Ask) -> Seen:
    return pieces([chunk async for chunk in model(ask, streaming=True).astream([turn(ask, image=ask.image)])])


@flow("image URL")
def image_url(ask: Ask) -> Seen:
    return whole(model(ask).invoke([turn(ask, image=ask.image_url)]))


@flow("local file")
def local_file(ask: Ask) -> Seen:
    return whole(model(ask).invoke([turn(ask, image=f"file://{ask.image_path}")]))


@flow("frames")
def frames(ask: Ask) -> Seen:
    return whole(model(ask).invoke([turn(ask, video=ask.frames)]))


@flow("tools")
def tools(ask: Ask) -> Seen:
    bound = model(ask).bind_tools([TOOL])
    first = bound.invoke([turn(ask)])
    call = first.tool_calls[0]
    result = ToolMessage(content=TOOL_RESULT, tool_call_id=call["id"])
    answer = whole(bound.invoke([turn(ask), first, result]))
    calls = [{"id": call["id"], "name": call["name"], "arguments": call["args"]}]
    return {**answer, "calls": calls, "called": first.response_metadata["finish_reason"]}


@flow("tools stream")
def tools_stream(ask: Ask) -> Seen:
    result = pieces(model(ask, streaming=True).bind_tools([TOOL]).stream([turn(ask)]))
    return {**result, "called": result["finish"]}


@flow("wrong key")
def wrong_key(ask: Ask) -> Seen:
    try:
        model(ask, dashscope_api_key=WRONG_KEY).invoke([turn(ask, image=ask.image)])
    except ValueError as error:
        return failed(401 if "status_code: 401" in str(error) else None, None, str(error))
    raise AssertionError("it was let in")


if __name__ == "__main__":
    serve()
