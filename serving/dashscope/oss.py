"""What clients know of OSS, the cloud's object store, to which they send forms and from which they fetch links."""

from __future__ import annotations

from xml.sax.saxutils import escape

from serving.dialects import Dialect
from serving.endpoint import Call, Serve
from serving.errors import ServingError

XML = b"application/xml"


class Refusal(Exception):
    """Raised for what OSS would refuse. `code` and `message` are its words."""

    def __init__(self, status: int, code: str, message: str) -> None:
        self.status = status
        self.code = code
        self.message = message
        super().__init__(f"{code}: {message}")


def refusing(serve: Serve) -> Serve:
    """`serve`, with its refusals told as OSS tells them."""

    async def served(call: Call) -> None:
        try:
            await serve(call)
        except Refusal as refusal:
            call.outcome = refusal.code
            body = _xml(refusal.code, refusal.message, call.exchange.request_id)
            await call.exchange.answer(refusal.status, body, content_type=XML)

    return served


def wrong_signature() -> Refusal:
    return Refusal(
        403,
        "SignatureDoesNotMatch",
        "The request signature we calculated does not match the signature you provided. "
        "Check your key and signing method.",
    )


def _xml(code: str, message: str, request_id: str) -> bytes:
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error>\n  <Code>{escape(code)}</Code>\n  <Message>{escape(message)}</Message>\n"
        f"  <RequestId>{request_id}</RequestId>\n</Error>\n"
    ).encode()


def _body(error: ServingError, request_id: str) -> bytes:
    return _xml(error.code, error.message, request_id)


def _no_frame(error: ServingError, request_id: str, number: int) -> bytes:
    """Nothing more can be told within a download that broke off: its length is announced."""
    return b""


OSS = Dialect(_body, _no_frame, content_type=XML)
