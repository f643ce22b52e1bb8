from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

import msgspec
from msgspec import Struct

from serving import decoding, lifting
from serving.errors import MalformedBody

MAX_PARAMETERS_BYTES = 1_048_576
"""The largest of them, a JSON schema, has some kilobytes; 14 MB of empty lists took the event loop 2 s."""
MAX_OBJECTS = 500_000
MAX_ITEMS = 4_000_000
"""By braces and commas, wherever they stand: more than any context has tokens. 20 million empty parts took 11 s."""
FEW = 200
"""Signs that are looked for one by one."""

Scalar: TypeAlias = str | int | float | bool | None
Value: TypeAlias = Scalar | list[str] | dict[str, Scalar]

if TYPE_CHECKING:
    WirePart: TypeAlias = dict[str, Any]
else:

    class WirePart(TypedDict, total=False):
        """Keys of a part that either protocol knows. Others are skipped, so that nothing is built of them."""

        type: Value
        text: Value
        image: Value
        video: Value
        audio: Value
        image_url: Value
        video_url: Value
        input_audio: Value
        min_pixels: Value
        max_pixels: Value
        total_pixels: Value
        fps: Value
        max_frames: Value


class WireFunction(Struct):
    name: str | None = None
    arguments: str | None = None


class WireToolCall(Struct):
    """A call that the model made, as a client sends it back."""

    id: str | None = None
    function: WireFunction | None = None


class WireMessage(Struct):
    """A turn as it arrives; the keys of a part are its modality and that modality's options."""

    role: str | None = None
    content: str | list[WirePart] | None = None
    partial: bool | None = None
    reasoning_content: str | None = None
    tool_calls: list[WireToolCall] | None = None
    tool_call_id: str | None = None


class WireTurn(Struct):
    """One exchange of the legacy `input.history`."""

    user: str
    bot: str


class WireInput(Struct):
    messages: list[WireMessage] | None = None
    prompt: str | None = None
    history: list[WireTurn] | None = None


class WireRequest(Struct):
    """The envelope of both service paths."""

    model: str | None = None
    input: WireInput | None = None
    parameters: dict[str, Any] | None = None
    misplaced: bool = False
    """Whether there are `messages` beside `input`, a mistake that some clients make."""


NULL = msgspec.Raw(b"null")


class _Body(Struct):
    """As sent. Unknown keys are ignored: clients add fields faster than documents do."""

    model: str | None = None
    input: WireInput | None = None
    parameters: msgspec.Raw = NULL
    messages: msgspec.Raw = NULL


_decoder = msgspec.json.Decoder(_Body)
_parameters_decoder = msgspec.json.Decoder(dict[str, Any] | None)


def parse(body: bytes) -> WireRequest:
    """Raises `MalformedBody`."""
    refuse_swarms(body)
    with decoding.refusing():
        sent = lifting.decode(body, _decoder, lambda sent: sent.input.messages if sent.input else None)
        return WireRequest(sent.model, sent.input, _parameters(sent.parameters), sent.messages != NULL)


def refuse_swarms(body: bytes) -> None:
    """Raises `MalformedBody` for a body of so many values that decoding it would hold the event loop."""
    if _exceeds(body, b"{", MAX_OBJECTS) or _exceeds(body, b",", MAX_ITEMS):
        raise MalformedBody(f"It is limited to {MAX_OBJECTS} objects and {MAX_ITEMS} items.")


def _exceeds(body: bytes, sign: bytes, most: int) -> bool:
    """Whether the sign is there more often. Counting takes 0.5 ms for the base64 of an image; to find the few that
    there are around it takes a twentieth of that."""
    if len(body) <= most:
        return False
    at = -1
    for _ in range(FEW):
        at = body.find(sign, at + 1)
        if at < 0:
            return False
    return body.count(sign) > most


def _parameters(raw: msgspec.Raw) -> dict[str, Any] | None:
    if len(memoryview(raw)) > MAX_PARAMETERS_BYTES:
        raise MalformedBody(f"`parameters` is limited to {MAX_PARAMETERS_BYTES} bytes.")
    parameters: dict[str, Any] | None = _parameters_decoder.decode(raw)
    return parameters
