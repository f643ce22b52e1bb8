from typing import Any, TypeAlias

import msgspec
from msgspec import Struct

from serving import decoding
from serving.errors import MalformedBody

MAX_PARAMETERS_BYTES = 1_048_576
"""The largest of them, a JSON schema, has some kilobytes; 14 MB of empty lists took the event loop 2 s."""

WirePart: TypeAlias = dict[str, Any]


class WireMessage(Struct):
    """A turn as it arrives; the keys of a part are its modality and that modality's options."""

    role: str | None = None
    content: str | list[WirePart] | None = None
    partial: bool | None = None
    tool_calls: list[Any] | None = None


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
    with decoding.refusing():
        sent = _decoder.decode(body)
        return WireRequest(sent.model, sent.input, _parameters(sent.parameters), sent.messages != NULL)


def _parameters(raw: msgspec.Raw) -> dict[str, Any] | None:
    if len(memoryview(raw)) > MAX_PARAMETERS_BYTES:
        raise MalformedBody(f"`parameters` is limited to {MAX_PARAMETERS_BYTES} bytes.")
    parameters: dict[str, Any] | None = _parameters_decoder.decode(raw)
    return parameters
