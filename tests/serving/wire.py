"""What clients put on the wire, and how tests read what comes back."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass
from typing import Any

import PIL.Image


def picture(form: str = "PNG", size: tuple[int, int] = (64, 48)) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.linear_gradient("L").resize(size).convert("RGB").save(buffer, form)
    return buffer.getvalue()


def data_uri(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def user(*parts: dict[str, Any] | str) -> dict[str, Any]:
    return {"role": "user", "content": [{"text": part} if isinstance(part, str) else part for part in parts]}


def chat(*messages: dict[str, Any], model: str = "qwen3-vl-30b", **parameters: Any) -> dict[str, Any]:
    return {"model": model, "input": {"messages": list(messages or (user("hi"),))}, "parameters": parameters}


@dataclass(frozen=True)
class Frame:
    id: int
    event: str
    status: int
    data: dict[str, Any]


def frames(body: bytes) -> list[Frame]:
    """Every frame of a stream; fails on anything that is not byte for byte in the cloud's form."""
    assert body.endswith(b"\n\n")
    return [_frame(block) for block in body.decode().removesuffix("\n\n").split("\n\n")]


def _frame(block: str) -> Frame:
    number, event, status, data = block.split("\n")
    assert number.startswith("id:")
    assert event.startswith("event:")
    assert status.startswith(":HTTP_STATUS/")
    assert data.startswith('data:{"')
    return Frame(int(number[3:]), event[6:], int(status[13:]), json.loads(data[5:]))
