"""
ServingError
├── InvalidRequest               400 InvalidParameter
│   ├── MalformedBody            400 InvalidParameter
│   ├── MethodUnsupported        400 InvalidParameter
│   ├── EmptyModel               400 BadRequest.EmptyModel
│   ├── EmptyInput               400 BadRequest.EmptyInput
│   ├── BodyTooLarge             400 BadRequest.TooLarge
│   ├── FileTooLarge             400 BadRequest.TooLarge
│   ├── FileQuotaExceeded        400 BadRequest.TooMany
│   ├── FileMissing              400 InvalidParameter
│   ├── ModelNotFound            400 InvalidParameter
│   ├── ThinkingUnsupported      400 InvalidParameter.NotSupportEnableThinking
│   ├── ContextTooLong           400 InvalidParameter
│   ├── NotPending               400 UnsupportedOperation
│   ├── MediaUnavailable         400 InvalidParameter.DataInspection
│   └── InvalidImage             400 InvalidParameter
├── Unauthorized                 401 InvalidApiKey
├── AsyncUnsupported             403 AccessDenied
├── AccessDenied                 403 AccessDenied
├── ModelDenied                  403 Model.AccessDenied
├── RouteNotFound                404 NotFound
├── Overloaded                   429 Throttling            retryable
├── QuotaExceeded                429 Throttling            retryable
│   ├── RequestQuotaExceeded     429 Throttling.RateQuota  retryable
│   ├── TokenQuotaExceeded       429 Throttling.AllocationQuota retryable
│   └── ConcurrencyExceeded      429 Throttling.Concurrency retryable
├── InternalError                500 InternalError         retryable
├── GenerationFailed             500 InternalError.Algo    retryable
│   └── ImageForgotten           500 InternalError.Algo    retryable
├── RequestTimeout               500 RequestTimeOut        retryable
├── TaskTimeout                  500 InternalError.Timeout
├── EngineUnavailable            503 ModelUnavailable      retryable
└── StorageUnavailable           503 ServiceUnavailable    retryable
"""

import uuid
from dataclasses import dataclass
from typing import ClassVar

PREFIX = "<400> InternalError.Algo.InvalidParameter: "
"""How the model layer's messages begin in the OpenAI-compatible protocol."""


@dataclass(frozen=True, slots=True)
class Alias:
    """What the OpenAI-compatible protocol calls an error. `status` and `message` are None where they are the native
    ones; `prefixed` messages are those of the model layer, which names itself in front of them."""

    code: str
    type: str = "invalid_request_error"
    status: int | None = None
    message: str | None = None
    prefixed: bool = False


class ServingError(Exception):
    """A refusal or failure as the client sees it; `message` and `code` are the cloud's own words where it has some."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "InternalError"
    alias: ClassVar[Alias] = Alias("internal_error", "internal_error")
    retryable: ClassVar[bool] = False
    message: str = "An internal error has occured, please try again later or contact service support."

    def __init__(self, message: str | None = None, *, retry_after: int | None = None, param: str | None = None) -> None:
        """`retry_after` in seconds, sent as the header of that name; `param` is the parameter that was refused."""
        self.message = message or type(self).message
        self.retry_after = retry_after
        self.param = param
        super().__init__(self.message)

    @property
    def compatible_message(self) -> str:
        """What the OpenAI-compatible protocol says."""
        return self.alias.message or (PREFIX + self.message if self.alias.prefixed else self.message)

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.retry_after is None else {"retry-after": str(self.retry_after)}


class InvalidRequest(ServingError):
    """Raised when a part of the request cannot be served as written."""

    status = 400
    code = "InvalidParameter"
    alias = Alias("invalid_parameter_error", prefixed=True)
    message = "Required body invalid, please check the request body format."


class MalformedBody(InvalidRequest):
    """Raised when the body is not the JSON that the endpoint takes."""

    alias = Alias("invalid_request_error")

    def __init__(self, detail: str) -> None:
        super().__init__(f"{type(self).message} {detail}")


class MethodUnsupported(InvalidRequest):
    """Raised for a path that is there and a method that is not; 400, as the cloud has it."""

    alias = Alias("invalid_request_error")

    def __init__(self, method: str) -> None:
        super().__init__(f"Request method '{method[:20]}' is not supported.")


class EmptyModel(InvalidRequest):
    """Raised when `model` is absent or empty."""

    code = "BadRequest.EmptyModel"
    alias = Alias("invalid_request_error", message="you must provide a model parameter.")
    message = 'Required parameter "model" missing from request.'


class EmptyInput(InvalidRequest):
    """Raised when `input` is absent."""

    code = "BadRequest.EmptyInput"
    alias = Alias("invalid_request_error")
    message = "Required input parameter missing from request."


class BodyTooLarge(InvalidRequest):
    """Raised when the body has more bytes than the server reads."""

    code = "BadRequest.TooLarge"
    alias = Alias("invalid_request_error")
    message = "Payload Too Large."

    def __init__(self, limit: int) -> None:
        super().__init__(f"{type(self).message} The request body is limited to {limit} bytes.")


class FileTooLarge(InvalidRequest):
    """Raised when a file has more bytes than the server keeps of one."""

    code = "BadRequest.TooLarge"
    alias = Alias("invalid_request_error")
    message = "Payload Too Large."

    def __init__(self, limit: int) -> None:
        super().__init__(f"{type(self).message} A file is limited to {limit} bytes.")


class FileQuotaExceeded(InvalidRequest):
    """Raised when an owner keeps as many files, or bytes in files, as the server allows."""

    code = "BadRequest.TooMany"
    alias = Alias("invalid_request_error")
    message = "Upload file number exceed limit."


class FileMissing(InvalidRequest):
    """Raised for a file that does not exist, or belongs to somebody else; 400, as the cloud has it."""

    message = "File not found."


class ModelNotFound(InvalidRequest):
    """Raised for a model name that this server does not answer to; 400, as the cloud's native page describes it."""

    alias = Alias("model_not_found", status=404)
    message = "Model not exist."

    def __init__(self, name: str, served: tuple[str, ...]) -> None:
        super().__init__(f"{type(self).message} {name[:80]!r} is none of: {', '.join(served)}.")
        self._name = name[:80]

    @property
    def compatible_message(self) -> str:
        return f"The model {self._name} does not exist or you do not have access to it."


class ThinkingUnsupported(InvalidRequest):
    """Raised when thinking is asked of a model that has no thinking mode."""

    code = "InvalidParameter.NotSupportEnableThinking"

    def __init__(self, model: str) -> None:
        super().__init__(f"The model {model} does not support enable_thinking.")


class ContextTooLong(InvalidRequest):
    """Raised when the prompt, images included, has more tokens than the model reads."""

    def __init__(self, limit: int, given: str = "") -> None:
        """`given` is the length that the prompt has, as far as the engine told it."""
        super().__init__(f"Range of input length should be [1, {limit}]" + (f", got {given}" if given else ""))


class InvalidImage(InvalidRequest):
    """Raised when an image is not one, is damaged, or is outside the limits."""

    message = "The file format is illegal and cannot be opened."


class MediaUnavailable(InvalidRequest):
    """Raised when the network does not bring what a URL of the client's names."""

    code = "InvalidParameter.DataInspection"
    message = "Unable to download the media resource during the data inspection process."


class NotPending(InvalidRequest):
    """Raised when a task is to be canceled that runs, has ended, or is none of the caller's."""

    code = "UnsupportedOperation"
    alias = Alias("unsupported_operation")
    message = "Failed to cancel the task, please confirm if the task is in PENDING status."


class Unauthorized(ServingError):
    """Raised when the API key is absent, unknown or revoked."""

    status = 401
    code = "InvalidApiKey"
    alias = Alias("invalid_api_key", message="Incorrect API key provided.")
    message = "Invalid API-key provided."


class AsyncUnsupported(ServingError):
    """Raised when a chat request asks to become an asynchronous task."""

    status = 403
    code = "AccessDenied"
    alias = Alias("access_denied", "access_denied")
    message = "current user api does not support asynchronous calls."


class AccessDenied(ServingError):
    """Raised when a key lacks the scope, or its image policy allows less, than a request needs."""

    status = 403
    code = "AccessDenied"
    alias = Alias("access_denied", "access_denied")
    message = "Access denied."

    def __init__(self, detail: str = "") -> None:
        super().__init__(f"{type(self).message} {detail}".rstrip())


class ModelDenied(ServingError):
    """Raised for a model that the server has and the key may not ask for."""

    status = 403
    code = "Model.AccessDenied"
    alias = Alias("model_access_denied", "access_denied")
    message = "Model access denied."

    def __init__(self, name: str = "", allowed: tuple[str, ...] = ()) -> None:
        super().__init__(f"{type(self).message} {name!r} is none of this key's models: {', '.join(allowed)}.")


class RouteNotFound(ServingError):
    """Raised for a path that the server does not have."""

    status = 404
    code = "NotFound"
    alias = Alias("not_found")
    message = "Not found!"

    def __init__(self, detail: str = "") -> None:
        """`detail` says what there is."""
        super().__init__(f"{type(self).message} {detail}".rstrip())


class Overloaded(ServingError):
    """Raised when the queue is full, or a request waited in it for too long, or would."""

    status = 429
    code = "Throttling"
    alias = Alias("limit_requests", "limit_requests")
    retryable = True
    message = "Too many requests in route. Please try again later."


class QuotaExceeded(ServingError):
    """Raised when a limit per minute, of a key or of the server, is used up."""

    status = 429
    code = "Throttling"
    alias = Alias("limit_requests", "limit_requests")
    retryable = True
    message = "Requests throttling triggered."

    def __init__(self, detail: str = "", *, retry_after: int | None = None) -> None:
        super().__init__(f"{type(self).message} {detail}".rstrip(), retry_after=retry_after)


class RequestQuotaExceeded(QuotaExceeded):
    """Raised when the requests or the images of a minute are used up."""

    code = "Throttling.RateQuota"
    message = "Requests rate limit exceeded, please try again later."


class TokenQuotaExceeded(QuotaExceeded):
    """Raised when the tokens of a minute are used up."""

    code = "Throttling.AllocationQuota"
    alias = Alias("insufficient_quota", "insufficient_quota")
    message = "Allocated quota exceeded, please increase your quota limit."


class ConcurrencyExceeded(QuotaExceeded):
    """Raised when as many requests run as are allowed at a time."""

    code = "Throttling.Concurrency"
    message = "Too many concurrent requests."


class InternalError(ServingError):
    """Raised for a defect of the server itself."""

    retryable = True


class GenerationFailed(ServingError):
    """Raised when the engine fails on a request that it should have answered."""

    code = "InternalError.Algo"
    retryable = True
    message = "inference internal error."


class ImageForgotten(GenerationFailed):
    """Raised when the engine does not have an image any more that it was given by name alone."""


class RequestTimeout(ServingError):
    """Raised when the deadline of a request passes before its body or first token has come, or in mid-stream."""

    code = "RequestTimeOut"
    alias = Alias("request_timeout", "request_timeout")
    retryable = True
    message = "Request timed out, please try again later."


class TaskTimeout(ServingError):
    """What a task fails with that has not been answered in its time."""

    code = "InternalError.Timeout"
    alias = Alias("internal_error_timeout", "internal_error")
    message = "The task was not finished in time, please try again later."


class EngineUnavailable(ServingError):
    """Raised when no engine can be reached, or it went away while it answered."""

    status = 503
    code = "ModelUnavailable"
    alias = Alias("model_unavailable", "model_unavailable")
    retryable = True
    message = "Model is unavailable, please try again later."


class StorageUnavailable(ServingError):
    """Raised when files cannot be stored or read; what failed is for the log, not for the client."""

    status = 503
    code = "ServiceUnavailable"
    alias = Alias("service_unavailable", "service_unavailable")
    retryable = True
    message = "The service is unavailable, please try again later."


def new_request_id() -> str:
    """Lowercase and dashed; a string, because the Java SDK rejects any other type."""
    return str(uuid.uuid4())
