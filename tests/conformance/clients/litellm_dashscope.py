"""LiteLLM with its provider `dashscope/`."""

from __future__ import annotations

from typing import Any

import litellm  # type: ignore[import-not-found]

from tests.conformance.clients.driver import (
    JSON_PROMPT,
    TOOL,
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


def options(ask: Ask, *parts: dict[str, Any], prompt: str = "", **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": [*parts, {"type": "text", "text": prompt or ask.prompt}]}]
    target = {"model": f"dashscope/{ask.model}", "api_base": ask.compatible, "api_key": ask.key}
    return {**target, "messages": messages, "max_retries": 0, **more}


def picture(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def whole(answer: Any) -> Seen:
    choice = answer.choices[0]
    return seen(
        choice.message.content,
        choice.finish_reason,
        tokens=(answer.usage.prompt_tokens, answer.usage.completion_tokens),
        request_id=answer.id.removeprefix("chatcmpl-"),
    )


def streamed(arguments: dict[str, Any]) -> Seen:
    result = Streamed()
    for chunk in litellm.completion(**arguments, stream=True):
        result.add(chunk.choices[0])
    return result.seen()


@flow("chat")
def chat(ask: Ask) -> Seen:
    return whole(litellm.completion(**options(ask, picture(ask.image))))


@flow("stream")
def stream(ask: Ask) -> Seen:
    return streamed(options(ask, picture(ask.image)))


@flow("async")
async def aio(ask: Ask) -> Seen:
    return whole(await litellm.acompletion(**options(ask, picture(ask.image))))


@flow("async stream")
async def aio_stream(ask: Ask) -> Seen:
    result = Streamed()
    async for chunk in await litellm.acompletion(**options(ask, picture(ask.image)), stream=True):
        result.add(chunk.choices[0])
    return result.seen()


@flow("image URL")
def image_url(ask: Ask) -> Seen:
    return whole(litellm.completion(**options(ask, picture(ask.image_url))))


@flow("tools")
def tools(ask: Ask) -> Seen:
    asked = options(ask, prompt=TOOL_PROMPT, tools=[TOOL])
    first = litellm.completion(**asked).choices[0]
    call = first.message.tool_calls[0]
    result = {"role": "tool", "content": TOOL_RESULT, "tool_call_id": call.id}
    answer = litellm.completion(**{**asked, "messages": [*asked["messages"], first.message.model_dump(), result]})
    calls = [{"id": call.id, "name": call.function.name, "arguments": call.function.arguments}]
    return {**whole(answer), "calls": calls, "called": first.finish_reason}


@flow("tools stream")
def tools_stream(ask: Ask) -> Seen:
    result = streamed(options(ask, prompt=TOOL_PROMPT, tools=[TOOL]))
    return {**result, "called": result["finish"]}


@flow("JSON")
def json_object(ask: Ask) -> Seen:
    wanted = {"type": "json_object"}
    return whole(litellm.completion(**options(ask, picture(ask.image), prompt=JSON_PROMPT, response_format=wanted)))


@flow("wrong key")
def wrong_key(ask: Ask) -> Seen:
    try:
        litellm.completion(**{**options(ask), "api_key": WRONG_KEY})
    except litellm.AuthenticationError as error:
        return failed(error.status_code, None, error.message)
    raise AssertionError("it was let in")


@flow("wrong parameter")
def wrong_parameter(ask: Ask) -> Seen:
    try:
        streamed(options(ask, picture(ask.image), temperature=2.5))
    except litellm.BadRequestError as error:
        return failed(error.status_code, None, error.message)
    raise AssertionError("it was accepted")


if __name__ == "__main__":
    serve()
