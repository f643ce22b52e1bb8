def frame(event_id: int, event: str, status: int, data: bytes) -> bytes:
    """One DashScope event: LF line ends, no space after colons, the HTTP status as an SSE comment, `data` on one line.

    Clients that read lines instead of events depend on these exact bytes: `event: error` with a space crashes the
    official Python SDK, `data: {` hides errors from the C# one.
    """
    return b"id:%d\nevent:%s\n:HTTP_STATUS/%d\ndata:%s\n\n" % (event_id, event.encode(), status, data)
