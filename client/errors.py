"""Every error of the client.

HomescopeError
├── ConfigurationError      wrong before anything was sent: no key, no address, a bad schema, a missing folder
├── UnusableImage           a local file that is not a whole image
├── InvalidAnswer           the model answered, but not with JSON that fits the schema
├── BadResponse             a success status with something else than an answer in it       retryable
├── TransportError          no answer arrived                                               retryable
│   ├── ConnectionFailed    nothing listens there, or the name does not resolve
│   ├── ConnectionLost      the connection broke before the answer was complete
│   └── TimedOut            connected, but no answer in time
├── ServiceError            the server answered with an error
│   ├── InvalidRequest      400, 413, 422: this request can never succeed
│   ├── Unauthorized        401: wrong key                                                  fatal
│   ├── AccountBlocked      unpaid or unbought, whatever the status                         fatal
│   ├── Forbidden           403
│   ├── NotFound            404, or an unknown model                                        fatal
│   ├── Throttled           429                                                             retryable
│   ├── BeingAnswered       409: an earlier request under the same Idempotency-Key runs on  retryable
│   └── ServerError         408 and 5xx                                                     retryable
└── LedgerError             the ledger cannot be used
    ├── LedgerBusy          another run is writing it
    └── DiskFull            no space left
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from client.models import Answer


class HomescopeError(Exception):
    """Base of all of them.

    Attributes:
        message: one line for a person.
        status: HTTP status, None when no HTTP answer arrived.
        code: DashScope error code such as `InvalidApiKey`, empty when there is none.
        request_id: the server's id of the request, empty when it gave none.
        retry_after: seconds the server asks to wait, None when it does not say.
        retryable: the same request may succeed later.
        fatal: the same error awaits every other request of the session.
    """

    retryable: ClassVar[bool] = False
    fatal: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str = "",
        request_id: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.request_id = request_id
        self.retry_after = retry_after


class ConfigurationError(HomescopeError):
    """Raised when an argument, an environment variable or a file given by the user cannot be used."""


class UnusableImage(HomescopeError):
    """Raised when a local file or bytes are empty, unreadable, cut short or no image."""


class InvalidAnswer(HomescopeError):
    """Raised when the answer holds no JSON or JSON that does not fit the schema. `answer` is what came."""

    def __init__(self, message: str, answer: Answer) -> None:
        super().__init__(message, request_id=answer.request_id)
        self.answer = answer


class BadResponse(HomescopeError):
    """Raised when a success status carries something that is not a DashScope answer."""

    retryable = True


class TransportError(HomescopeError):
    """Raised when no complete HTTP answer arrived."""

    retryable = True


class ConnectionFailed(TransportError):
    """Raised when no connection could be made: nothing was sent."""


class ConnectionLost(TransportError):
    """Raised when the connection broke before the answer was complete."""


class TimedOut(TransportError):
    """Raised when the server was reached but did not answer in time."""


class ServiceError(HomescopeError):
    """Raised when the server answered with an error; `message` is the server's own."""


class InvalidRequest(ServiceError):
    """Raised on 400, 413, 422 and other 4xx: sending the same again cannot help."""


class Unauthorized(ServiceError):
    """Raised on 401: the key is missing, wrong or revoked."""

    fatal = True


class AccountBlocked(ServiceError):
    """Raised when the account has to be paid first (`Arrearage` and its relatives)."""

    fatal = True


class Forbidden(ServiceError):
    """Raised on 403: the key may not do this."""


class NotFound(ServiceError):
    """Raised on 404 and for an unknown model."""

    fatal = True


class Throttled(ServiceError):
    """Raised on 429: too many requests or tokens for now."""

    retryable = True


class BeingAnswered(ServiceError):
    """Raised on 409 while an earlier request under the same Idempotency-Key is being answered."""

    retryable = True


class ServerError(ServiceError):
    """Raised on 408 and 5xx: the server failed, not the request."""

    retryable = True


class LedgerError(HomescopeError):
    """Raised when the ledger beside the results cannot be read or written."""


class LedgerBusy(LedgerError):
    """Raised when another run holds the ledger."""


class DiskFull(LedgerError):
    """Raised when the disk has no room for the next record."""


# Codes that say more than their status: "Arrearage" is a 400 and an overdue bill is a 429 on the wire.
_BY_CODE: dict[str, type[ServiceError]] = {
    "InvalidApiKey": Unauthorized,
    "NOT AUTHORIZED": Unauthorized,
    "Arrearage": AccountBlocked,
    "CommodityNotPurchased": AccountBlocked,
    "PrepaidBillOverdue": AccountBlocked,
    "PostpaidBillOverdue": AccountBlocked,
    "AllocationQuota.FreeTierOnly": AccountBlocked,
    "IdempotencyKey.InFlight": BeingAnswered,
    "ModelNotFound": NotFound,
    "Model.NotExist": NotFound,
}
_BY_STATUS: dict[int, type[ServiceError]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    408: ServerError,
    429: Throttled,
}


def service_error(
    status: int, code: str, message: str, *, request_id: str = "", retry_after: float | None = None
) -> ServiceError:
    """The leaf of the tree for an error answer. The code decides first, then the status.

    An unknown model arrives as 400 `InvalidParameter` with the text "Model not exist." from the native protocol.
    """
    kind = _BY_CODE.get(code) or _BY_STATUS.get(status) or (ServerError if status >= 500 else InvalidRequest)
    if code == "InvalidParameter" and "model not exist" in message.lower():
        kind = NotFound
    return kind(message, status=status, code=code, request_id=request_id, retry_after=retry_after)
