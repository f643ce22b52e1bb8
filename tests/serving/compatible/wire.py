"""What OpenAI clients put on the wire, and how tests read what comes back."""

from __future__ import annotations

import json
from typing import Any


def user(*parts: dict[str, Any] | str) -> dict[str, Any]:
    return {"role": "user", "content": [text(part) if isinstance(part, str) else part for part in parts]}


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def image(url: str, **siblings: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}, **siblings}


def chat(*messages: dict[str, Any], model: str = "qwen3-vl-30b", **parameters: Any) -> dict[str, Any]:
    return {"model": model, "messages": list(messages or (user("hi"),)), **parameters}


def events(body: bytes) -> list[dict[str, Any]]:
    """Every event of a stream but the closing `[DONE]`; fails on anything that is not byte for byte in the form."""
    *blocks, done, rest = body.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    return [_event(block) for block in blocks]


def _event(block: bytes) -> dict[str, Any]:
    assert block.startswith(b'data: {"')
    assert b"\n" not in block
    data: dict[str, Any] = json.loads(block[6:])
    return data


def folded(stream: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """What a client makes of a stream: of each choice the message, the reason for the end and the log-probabilities."""
    choices: dict[int, dict[str, Any]] = {}
    for event in stream:
        for piece in event["choices"]:
            new = {"index": piece["index"], "message": {}, "finish_reason": None, "logprobs": None}
            _add(choices.setdefault(piece["index"], new), piece)
    return choices


def _add(choice: dict[str, Any], piece: dict[str, Any]) -> None:
    message = choice["message"]
    for name, value in piece["delta"].items():
        if name == "tool_calls":
            for delta in value:
                _add_call(message.setdefault(name, []), delta)
        elif value is not None:
            message[name] = value if name == "role" else message.get(name, "") + value
    if piece["logprobs"]:
        so_far = choice["logprobs"] or {"content": []}
        choice["logprobs"] = {"content": so_far["content"] + piece["logprobs"]["content"]}
    choice["finish_reason"] = piece["finish_reason"] or choice["finish_reason"]


def _add_call(calls: list[dict[str, Any]], delta: dict[str, Any]) -> None:
    if delta["index"] == len(calls):
        assert delta["id"]
        assert delta["function"]["name"]
        calls.append(delta)
        return
    assert (delta["id"], delta["type"], list(delta["function"])) == ("", "function", ["arguments"])
    calls[delta["index"]]["function"]["arguments"] += delta["function"]["arguments"]
