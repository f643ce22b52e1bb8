from __future__ import annotations

from dataclasses import dataclass

_STATUS_COMMENT = "HTTP_STATUS/"


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event. `status` comes from DashScope's `:HTTP_STATUS/NNN` comment, None without it."""

    event: str
    data: str
    id: str = ""
    status: int | None = None


class Decoder:
    """Bytes in, events out, wherever the bytes were split.

    Follows the event stream format of the HTML standard (section 9.2.6) with one leniency: an `id` line begins a
    new event even where the blank line before it is missing, as in recordings of older DashScope gateways.
    An event that the stream breaks off is never returned.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._start()

    def _start(self) -> None:
        self._event, self._id = "", ""
        self._data: list[str] = []
        self._status: int | None = None

    def feed(self, chunk: bytes) -> list[Event]:
        """The events completed by `chunk`."""
        *lines, self._rest = _split(self._rest + chunk)
        events = [self._line(line.decode("utf-8", "replace")) for line in lines]
        return [event for event in events if event is not None]

    def close(self) -> Event | None:
        """The last event, when the stream ended after its data line but before the blank line."""
        if self._rest == b"\r":
            self._rest = b""
        return None if self._rest else self._flush()

    def _line(self, line: str) -> Event | None:
        if not line:
            return self._flush()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "id" and self._data:
            event = self._flush()
            self._id = value
            return event
        self._field(name.removeprefix("\ufeff"), value)
        return None

    def _field(self, name: str, value: str) -> None:
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id":
            self._id = value
        elif name == "" and value.startswith(_STATUS_COMMENT):
            number = value.removeprefix(_STATUS_COMMENT).strip()
            self._status = int(number) if number.isdecimal() else None

    def _flush(self) -> Event | None:
        event = Event(self._event or "message", "\n".join(self._data), self._id, self._status) if self._data else None
        self._start()
        return event


def _split(data: bytes) -> list[bytes]:
    """Lines ended by LF, CRLF or CR. A CR at the very end waits: its LF may be the next byte."""
    held = b"\r" if data.endswith(b"\r") else b""
    body = data[: len(data) - len(held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    *lines, rest = body.split(b"\n")
    return [*lines, rest + held]
