"""No client library at all: HTTP as programs write it that were copied out of an article, with `requests`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import requests

from tests.conformance.clients.driver import WRONG_KEY, Ask, Seen, failed, flow, seen, serve

MULTIMODAL = "multimodal-generation"
WITHIN_S = 60


def send(ask: Ask, *content: Any, service: str = MULTIMODAL, stream: bool = False, **parameters: Any) -> Any:
    """The response; a key in `parameters` is sent instead of the one of `ask`."""
    headers = {"Authorization": f"Bearer {parameters.pop('key', ask.key)}", "Content-Type": "application/json"}
    if stream:
        headers["X-DashScope-SSE"] = "enable"
    turns = [{"role": "user", "content": content[0] if isinstance(content[0], str) else list(content)}]
    payload = {"model": ask.model, "input": {"messages": turns}, "parameters": parameters}
    url = f"{ask.native}/services/aigc/{service}/generation"
    return requests.post(url, headers=headers, json=payload, stream=stream, timeout=WITHIN_S)


def told(response: Any) -> Seen:
    body = response.json()
    return failed(response.status_code, body["code"], body["message"])


def whole(response: Any) -> Seen:
    """Read as the article reads it: `output.text`, which VL models of the cloud do not send."""
    body = response.json()
    choice, usage = body["output"]["choices"][0], body["usage"]
    text = body["output"].get("text", choice["message"]["content"])
    return seen(
        text if isinstance(text, str) else "".join(part["text"] for part in text),
        choice["finish_reason"],
        tokens=(usage["input_tokens"], usage["output_tokens"]),
        total=usage["total_tokens"],
        request_id=body["request_id"],
    )


def frames_of(response: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Event and data of each frame."""
    event = ""
    for line in response.iter_lines(decode_unicode=True):
        name, _, value = line.partition(":")
        if name == "event":
            event = value
        elif name == "data":
            yield event, json.loads(value)


def streamed(response: Any) -> Seen:
    pieces: list[str] = []
    last: dict[str, Any] = {}
    for event, last in frames_of(response):
        if event == "error":
            return {**failed(response.status_code, last["code"], last["message"]), "pieces": pieces}
        content = last["output"]["choices"][0]["message"]["content"]
        pieces.append("".join(part["text"] for part in content))
    usage, finish = last["usage"], last["output"]["choices"][0]["finish_reason"]
    return seen("".join(pieces), finish, tokens=(usage["input_tokens"], usage["output_tokens"]), pieces=pieces)


@flow("chat")
def chat(ask: Ask) -> Seen:
    return whole(send(ask, {"image": ask.image}, {"text": ask.prompt}))


@flow("stream")
def stream(ask: Ask) -> Seen:
    return streamed(send(ask, {"image": ask.image}, {"text": ask.prompt}, stream=True))


@flow("cumulative")
def cumulative(ask: Ask) -> Seen:
    result = streamed(send(ask, {"image": ask.image}, {"text": ask.prompt}, stream=True, incremental_output=False))
    return {**result, "text": result["pieces"][-1]}


@flow("text path")
def text_path(ask: Ask) -> Seen:
    return whole(send(ask, ask.prompt, service="text-generation"))


@flow("image URL")
def image_url(ask: Ask) -> Seen:
    return whole(send(ask, {"image": ask.image_url}, {"text": ask.prompt}))


@flow("two images")
def two_images(ask: Ask) -> Seen:
    return whole(send(ask, {"image": ask.image}, {"image": ask.second}, {"text": ask.comparison}))


@flow("JSON schema")
def json_schema(ask: Ask) -> Seen:
    wanted = {"type": "json_schema", "json_schema": {"name": "figure", "schema": ask.schema, "strict": True}}
    return whole(send(ask, {"image": ask.image}, {"text": ask.json_prompt}, response_format=wanted))


@flow("wrong key")
def wrong_key(ask: Ask) -> Seen:
    return told(send(ask, {"text": ask.prompt}, key=WRONG_KEY))


@flow("wrong parameter")
def wrong_parameter(ask: Ask) -> Seen:
    return told(send(ask, {"image": ask.image}, {"text": ask.prompt}, temperature=2.5))


@flow("broken stream")
def broken_stream(ask: Ask) -> Seen:
    return streamed(send(ask, {"image": ask.image}, {"text": ask.prompt}, stream=True))


if __name__ == "__main__":
    serve()
