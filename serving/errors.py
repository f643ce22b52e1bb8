"""
ServingError
├── InvalidRequest               400 InvalidParameter
│   ├── MalformedBody            400 InvalidParameter
│   ├── EmptyModel               400 BadRequest.EmptyModel
│   ├── EmptyInput               400 BadRequest.EmptyInput
│   ├── BodyTooLarge             400 BadRequest.TooLarge
│   ├── ModelNotFound            400 InvalidParameter
│   ├── ThinkingUnsupported      400 InvalidParameter.NotSupportEnableThinking
│   ├── ContextTooLong           400 InvalidParameter
│   └── InvalidImage             400 InvalidParameter
├── Unauthorized                 401 InvalidApiKey
├── AsyncUnsupported             403 AccessDenied
├── RouteNotFound                404 NotFound
├── Overloaded                   429 Throttling            retryable
├── InternalError                500 InternalError         retryable
├── GenerationFailed             500 InternalError.Algo    retryable
├── RequestTimeout               500 RequestTimeOut        retryable
└── EngineUnavailable            503 ModelUnavailable      retryable
"""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import orjson

from serving import sse


class ServingError(Exception):
    """A refusal or failure as the client sees it; `message` and `code` are the cloud's own words where it has some."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "InternalError"
    retryable: ClassVar[bool] = False
    message: str = "An internal error has occured, please try again later or contact service support."

    def __init__(self, message: str | None = None, *, retry_after: int | None = None) -> None:
        """`retry_after` in seconds, sent as the header of that name."""
        self.message = message or type(self).message
        self.retry_after = retry_after
        super().__init__(self.message)

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.retry_after is None else {"retry-after": str(self.retry_after)}


class InvalidRequest(ServingError):
    """Raised when a part of the request cannot be served as written."""

    status = 400
    code = "InvalidParameter"
    message = "Required body invalid, please check the request body format."


class MalformedBody(InvalidRequest):
    """Raised when the body is not the JSON that the endpoint takes."""

    def __init__(self, detail: str) -> None:
        super().__init__(f"{type(self).message} {detail}")


class EmptyModel(InvalidRequest):
    """Raised when `model` is absent or empty."""

    code = "BadRequest.EmptyModel"
    message = 'Required parameter "model" missing from request.'


class EmptyInput(InvalidRequest):
    """Raised when `input` is absent."""

    code = "BadRequest.EmptyInput"
    message = "Required input parameter missing from request."


class BodyTooLarge(InvalidRequest):
    """Raised when the body has more bytes than the server reads."""

    code = "BadRequest.TooLarge"
    message = "Payload Too Large."

    def __init__(self, limit: int) -> None:
        super().__init__(f"{type(self).message} The request body is limited to {limit} bytes.")


class ModelNotFound(InvalidRequest):
    """Raised for a model name that this server does not answer to; 400, as the cloud's native page describes it."""

    message = "Model not exist."

    def __init__(self, name: str, served: tuple[str, ...]) -> None:
        super().__init__(f"{type(self).message} {name[:80]!r} is none of: {', '.join(served)}.")


class ThinkingUnsupported(InvalidRequest):
    """Raised when thinking is asked of a model that has no thinking mode."""

    code = "InvalidParameter.NotSupportEnableThinking"

    def __init__(self, model: str) -> None:
        super().__init__(f"The model {model} does not support enable_thinking.")


class ContextTooLong(InvalidRequest):
    """Raised when the prompt, images included, has more tokens than the model reads."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"Range of input length should be [1, {limit}]")


class InvalidImage(InvalidRequest):
    """Raised when an image is not one, is damaged, or is outside the limits."""

    message = "The file format is illegal and cannot be opened."


class Unauthorized(ServingError):
    """Raised when the API key is absent, unknown or revoked."""

    status = 401
    code = "InvalidApiKey"
    message = "Invalid API-key provided."


class AsyncUnsupported(ServingError):
    """Raised when a chat request asks to become an asynchronous task."""

    status = 403
    code = "AccessDenied"
    message = "current user api does not support asynchronous calls."


class RouteNotFound(ServingError):
    """Raised for a path that the server does not have."""

    status = 404
    code = "NotFound"
    message = "Not found!"


class Overloaded(ServingError):
    """Raised when the queue is full, or a request waited in it for too long."""

    status = 429
    code = "Throttling"
    retryable = True
    message = "Too many requests in route. Please try again later."


class InternalError(ServingError):
    """Raised for a defect of the server itself."""

    retryable = True


class GenerationFailed(ServingError):
    """Raised when the engine fails on a request that it should have answered."""

    code = "InternalError.Algo"
    retryable = True
    message = "inference internal error."


class RequestTimeout(ServingError):
    """Raised when the deadline of a request passes before its body or first token has come, or in mid-stream."""

    code = "RequestTimeOut"
    retryable = True
    message = "Request timed out, please try again later."


class EngineUnavailable(ServingError):
    """Raised when no engine can be reached, or it went away while it answered."""

    status = 503
    code = "ModelUnavailable"
    retryable = True
    message = "Model is unavailable, please try again later."


def new_request_id() -> str:
    """Lowercase and dashed; a string, because the Java SDK rejects any other type."""
    return str(uuid.uuid4())


def to_json(error: ServingError, request_id: str) -> bytes:
    """The cloud's error body: exactly three keys, `code` first (some clients look for the literal `{"code":`)."""
    return orjson.dumps({"code": error.code, "message": error.message, "request_id": request_id})


def to_sse(error: ServingError, request_id: str, event_id: int) -> bytes:
    """The last frame of a stream that failed after it began."""
    return sse.frame(event_id, "error", error.status, to_json(error, request_id))


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a protocol tells a failure: as the `body` of an answer with the error's own status, or, once a stream has
    begun, as its last `frame`, which is given the number that a frame would have now."""

    body: Callable[[ServingError, str], bytes]
    frame: Callable[[ServingError, str, int], bytes]


NATIVE = Dialect(to_json, to_sse)
