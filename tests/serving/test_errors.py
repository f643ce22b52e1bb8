import json
from collections.abc import Iterator

import pytest

from serving import errors
from serving.dialects import COMPATIBLE
from serving.errors import (
    InvalidRequest,
    MalformedBody,
    ModelNotFound,
    Overloaded,
    ServingError,
    Unauthorized,
)


def leaves(kind: type[ServingError] = ServingError) -> Iterator[type[ServingError]]:
    """Those of the module; an error that one protocol alone knows stands beside what raises it."""
    if kind.__module__ == errors.__name__:
        yield kind
    for child in kind.__subclasses__():
        yield from leaves(child)


def test_the_drawn_tree_is_the_tree() -> None:
    drawn = [line for line in (errors.__doc__ or "").splitlines() if line.strip()]
    named = {line.replace("─", " ").replace("├", " ").replace("└", " ").replace("│", " ").split()[0] for line in drawn}
    assert named == {kind.__name__ for kind in leaves()}
    for kind in leaves():
        if kind is ServingError:
            continue
        (line,) = [line for line in drawn if f" {kind.__name__} " in line]
        assert f" {kind.status} {kind.code}" in line
        assert line.endswith("retryable") == kind.retryable


@pytest.mark.parametrize("kind", list(leaves()))
def test_every_error_says_what_happened(kind: type[ServingError]) -> None:
    assert kind.message
    assert kind.__doc__
    assert 400 <= kind.status < 600


def test_retry_after_leaves_as_a_header() -> None:
    assert Overloaded(retry_after=2).headers == {"retry-after": "2"}
    assert Overloaded().headers == {}


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (
            InvalidRequest("Range of seed should be [0, 1]", param="seed"),
            400,
            {
                "message": "<400> InternalError.Algo.InvalidParameter: Range of seed should be [0, 1]",
                "type": "invalid_request_error",
                "param": "seed",
                "code": "invalid_parameter_error",
            },
        ),
        (
            Unauthorized(),
            401,
            {
                "message": "Incorrect API key provided.",
                "type": "invalid_request_error",
                "param": None,
                "code": "invalid_api_key",
            },
        ),
        (
            ModelNotFound("gpt", ("ours",)),
            404,
            {
                "message": "The model gpt does not exist or you do not have access to it.",
                "type": "invalid_request_error",
                "param": None,
                "code": "model_not_found",
            },
        ),
        (
            Overloaded("busy"),
            429,
            {"message": "busy", "type": "limit_requests", "param": None, "code": "limit_requests"},
        ),
    ],
)
def test_the_compatible_form(error: ServingError, status: int, told: dict[str, object]) -> None:
    assert COMPATIBLE.status(error) == status
    completion = {} if status == 401 else {"id": "chatcmpl-id-1"}
    envelope = {"error": told, **completion, "request_id": "id-1"}
    assert json.loads(COMPATIBLE.body(error, "id-1")) == envelope
    frame = COMPATIBLE.frame(error, "id-1", 3)
    assert frame.startswith(b"data: {")
    assert frame.endswith(b"}\n\n")
    assert json.loads(frame[6:]) == envelope


def test_what_the_model_layer_does_not_say_has_no_prefix() -> None:
    assert MalformedBody("x").compatible_message == MalformedBody("x").message
