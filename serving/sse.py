BLANK = "\0"
"""As a string of a JSON text: to be filled in later. Nothing else in what the server writes of itself is one."""
_BLANK = b'"\\u0000"'


def frame(event_id: int, event: str, status: int, data: bytes) -> bytes:
    """One DashScope event: LF line ends, no space after colons, the HTTP status as an SSE comment, `data` on one line.

    Clients that read lines instead of events depend on these exact bytes: `event: error` with a space crashes the
    official Python SDK, `data: {` hides errors from the C# one.
    """
    return b"id:%d\n%s" % (event_id, unnumbered(event, status, data))


def unnumbered(event: str, status: int, data: bytes) -> bytes:
    """What of the event comes after its number."""
    return b"event:%s\n:HTTP_STATUS/%d\ndata:%s\n\n" % (event.encode(), status, data)


def template(text: bytes) -> bytes:
    """The text to be filled in by `%`: with JSON wherever it has `BLANK`."""
    return text.replace(b"%", b"%%").replace(_BLANK, b"%b")
