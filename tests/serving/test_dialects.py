from __future__ import annotations

import json

from serving import dialects
from serving.errors import Overloaded


def test_json_has_three_keys_and_code_first() -> None:
    body = dialects.to_json(Overloaded("busy"), "id-1")
    assert body == b'{"code":"Throttling","message":"busy","request_id":"id-1"}'


def test_an_error_frame_carries_the_status_and_the_same_body() -> None:
    frame = dialects.to_sse(Overloaded("busy"), "id-1", 3)
    head, data = frame.split(b"data:")
    assert head == b"id:3\nevent:error\n:HTTP_STATUS/429\n"
    assert json.loads(data) == {"code": "Throttling", "message": "busy", "request_id": "id-1"}
