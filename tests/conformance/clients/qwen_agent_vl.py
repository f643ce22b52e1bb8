"""qwen-agent with its model type `qwenvl_dashscope`."""

from __future__ import annotations

from typing import Any

from qwen_agent.llm import get_chat_model  # type: ignore[import-not-found]
from qwen_agent.llm.base import ModelServiceError  # type: ignore[import-not-found]
from qwen_agent.llm.schema import ContentItem, Message  # type: ignore[import-not-found]

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

NATIVE_CALLS: dict[str, Any] = {"use_raw_api": True}


def model(ask: Ask, key: str | None = None, **generate: Any) -> Any:
    configuration = {
        "model_type": "qwenvl_dashscope",
        "model": ask.model,
        "api_key": key or ask.key,
        "base_http_api_url": ask.native,
        "generate_cfg": {"max_retries": 0, **generate},
    }
    return get_chat_model(configuration)


def turn(ask: Ask, image: str = "", prompt: str = "") -> Any:
    items = [ContentItem(image=image)] if image else []
    return Message("user", [*items, ContentItem(text=prompt or ask.prompt)])


def text_of(message: Any) -> str:
    content = message.content
    return content if isinstance(content, str) else "".join(item.text for item in content)


def whole(message: Any) -> Seen:
    told = message.extra["model_service_info"]
    usage = told["usage"]
    finish = told["output"]["choices"][0]["finish_reason"]
    tokens = (usage["input_tokens"], usage["output_tokens"])
    return seen(text_of(message), finish, tokens=tokens, request_id=told["request_id"])


@flow("chat")
def chat(ask: Ask) -> Seen:
    (message,) = model(ask).chat([turn(ask, ask.image)], stream=False)
    return whole(message)


@flow("stream")
def stream(ask: Ask) -> Seen:
    """It yields the whole message so far, each time."""
    pieces = [text_of(messages[-1]) for messages in model(ask).chat([turn(ask, ask.image)], stream=True)]
    return seen(pieces[-1], None, pieces=pieces)


@flow("image URL")
def image_url(ask: Ask) -> Seen:
    (message,) = model(ask).chat([turn(ask, ask.image_url)], stream=False)
    return whole(message)


@flow("local file")
def local_file(ask: Ask) -> Seen:
    (message,) = model(ask).chat([turn(ask, ask.image_path)], stream=False)
    return whole(message)


@flow("tools")
def tools(ask: Ask) -> Seen:
    function = TOOL["function"]
    asked = [turn(ask, prompt=TOOL_PROMPT)]
    first = model(ask, **NATIVE_CALLS).chat(asked, functions=[function], stream=True)
    called = list(first)[-1]
    call = called[-1]
    result = Message("function", TOOL_RESULT, name=call.function_call.name, extra=call.extra)
    answers = list(model(ask, **NATIVE_CALLS).chat([*asked, *called, result], functions=[function], stream=True))[-1]
    calls = [
        {
            "id": call.extra["function_id"],
            "name": call.function_call.name,
            "arguments": call.function_call.arguments,
        }
    ]
    return {**whole(answers[-1]), "calls": calls, "called": None}


@flow("wrong key")
def wrong_key(ask: Ask) -> Seen:
    try:
        model(ask, WRONG_KEY).chat([turn(ask, ask.image)], stream=False)
    except ModelServiceError as error:
        return failed(None, error.code, str(error))
    raise AssertionError("it was let in")


if __name__ == "__main__":
    serve()
