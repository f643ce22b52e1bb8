from typing import Any, TypeAlias

import msgspec
from msgspec import Struct

from serving.errors import MalformedBody

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
    """The envelope of both service paths. Unknown keys are ignored: clients add fields faster than documents do."""

    model: str | None = None
    input: WireInput | None = None
    parameters: dict[str, Any] | None = None
    messages: Any = None
    """A mistake that some clients make: it belongs into `input`."""


_decoder = msgspec.json.Decoder(WireRequest)


def parse(body: bytes) -> WireRequest:
    """Raises `MalformedBody`. Also for NaN, invalid UTF-8 and unpaired surrogates, which JSON does not have."""
    try:
        return _decoder.decode(body)
    except RecursionError:
        raise MalformedBody("It is nested too deeply.") from None
    except UnicodeDecodeError:
        raise MalformedBody("It is not valid UTF-8.") from None
    except msgspec.DecodeError as error:
        raise MalformedBody(f"{error}.") from None
