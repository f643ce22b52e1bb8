"""The lines of output and error files. Each line of the input is in exactly one of them."""

from __future__ import annotations

from typing import Any

import orjson

from serving.dialects import compatible_status
from serving.errors import ServingError
from serving.jobs.job import Failure, Job

CLIENT_ERROR = "invalid_request_error"
EXPIRED = ("batch_expired", "This request could not be executed before the completion window expired.")
CANCELLED = ("batch_cancelled", "This request was not executed, because the batch was cancelled.")


def failure(error: ServingError) -> Failure:
    """The error in the words of the OpenAI-compatible protocol."""
    return Failure(compatible_status(error), error.alias.code, error.compatible_message)


def answered(job: Job, completion: bytes) -> bytes:
    """`completion` is the answer's JSON, which is not read again."""
    head = orjson.dumps({"id": job.id, "custom_id": job.details["custom_id"]})[:-1]
    response = b'{"status_code":200,"request_id":"%s","body":%s}' % (job.id.encode(), completion)
    return b'%s,"response":%s,"error":null}\n' % (head, response)


def failed(job: Job) -> bytes:
    told = job.failure or Failure(500, "internal_error", ServingError.message)
    kind = CLIENT_ERROR if told.status < 429 else told.code
    error = {"message": told.message, "type": kind, "param": None, "code": told.code}
    body = {"error": error, "id": f"chatcmpl-{job.id}", "request_id": job.id}
    response = {"status_code": told.status, "request_id": job.id, "body": body}
    return _line(job, response, told.code, told.message)


def skipped(job: Job, *, expired: bool) -> bytes:
    """For a line whose turn never came."""
    return _line(job, None, *(EXPIRED if expired else CANCELLED))


def _line(job: Job, response: dict[str, Any] | None, code: str, message: str) -> bytes:
    line = {
        "id": job.id,
        "custom_id": job.details["custom_id"],
        "response": response,
        "error": {"code": code, "message": message},
    }
    return orjson.dumps(line) + b"\n"
