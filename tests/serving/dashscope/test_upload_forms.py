from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from starlette.routing import Router
from starlette.types import Message

from serving.access.keys import KeyStore
from serving.access.signer import Signer
from serving.app import create_app
from serving.dashscope.policy import Policies
from serving.dashscope.uploads import FormPost
from serving.endpoint import Call
from serving.errors import RequestTimeout
from serving.exchange import Exchange
from serving.settings import Settings
from serving.storage import database, objects
from serving.storage.uploads import Uploads
from tests.fakes import FakeEngine
from tests.serving.dashscope.uploading import MAX_BYTES, MODEL, ask, certificate, form, post, said
from tests.serving.storage.test_objects import lying_in
from tests.serving.wire import picture


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path / "data", max_upload_bytes=MAX_BYTES)


@pytest.fixture
def stored(settings: Settings) -> Path:
    return settings.data / "objects"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("box.example:8000", "http://box.example:8000/oss"),
        ("[::1]:80", "http://[::1]:80/oss"),
        ('evil"/><x', "http://test/oss"),
        ("", "http://test/oss"),
    ],
)
async def test_the_form_goes_where_the_client_came_from(client: httpx.AsyncClient, host: str, expected: str) -> None:
    assert (await certificate(client, host=host))["upload_host"] == expected


@pytest.mark.parametrize("public", ["https://vl.example.com/ai", "https://vl.example.com/ai/"])
async def test_the_form_goes_to_the_public_url(key: str, settings: Settings, engine: FakeEngine, public: str) -> None:
    app = create_app(settings.model_copy(update={"public_url": public}), engine)
    async with (
        app.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
    ):
        assert (await certificate(client, authorization=f"Bearer {key}"))[
            "upload_host"
        ] == "https://vl.example.com/ai/oss"


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({}, "InvalidParameter"),
        ({"action": "putPolicy", "model": MODEL}, "InvalidParameter"),
        ({"action": "getPolicy"}, "BadRequest.EmptyModel"),
        ({"action": "getPolicy", "model": ""}, "BadRequest.EmptyModel"),
        ({"action": "getPolicy", "model": "qwen-none"}, "InvalidParameter"),
    ],
)
async def test_a_wrong_question_is_refused(client: httpx.AsyncClient, params: dict[str, str], code: str) -> None:
    answer = await client.get("/api/v1/uploads", params=params)
    assert (answer.status_code, answer.json()["code"]) == (400, code)


async def test_a_certificate_needs_a_key(client: httpx.AsyncClient) -> None:
    answer = await client.get("/api/v1/uploads?action=getPolicy&model=x", headers={"authorization": ""})
    assert (answer.status_code, answer.json()["code"]) == (401, "InvalidApiKey")


async def test_another_keys_upload_is_refused(client: httpx.AsyncClient, settings: Settings) -> None:
    records = database.at(settings.data)
    other = await KeyStore(records).create("other")
    await database.close(records)
    fields = form(await certificate(client), "a.png")
    await post(client, fields, picture())
    answer = await ask(client, "oss://" + fields["key"], authorization=f"Bearer {other}")
    assert (answer.status_code, answer.json()["code"]) == (400, "InvalidParameter")
    assert "Failed to download multimodal content." in answer.json()["message"]


async def test_an_empty_upload_is_no_image(client: httpx.AsyncClient) -> None:
    fields = form(await certificate(client), "a.png")
    assert (await post(client, fields, b"")).status_code == 200
    answer = await ask(client, "oss://" + fields["key"])
    assert (answer.status_code, answer.json()["code"]) == (400, "InvalidParameter")
    assert "0 bytes" in answer.json()["message"]


ORDERS = {
    "csharp": ["OSSAccessKeyId", "policy", "Signature", "key", "x-oss-object-acl", "x-oss-forbid-overwrite"],
    "rust": [
        "OSSAccessKeyId",
        "Signature",
        "policy",
        "x-oss-object-acl",
        "x-oss-forbid-overwrite",
        "key",
        "success_action_status",
    ],
}


@pytest.mark.parametrize(("client_of", "status"), [("csharp", 204), ("rust", 200)])
async def test_other_clients_send_other_orders(client: httpx.AsyncClient, client_of: str, status: int) -> None:
    fields = form(await certificate(client), "a.png")
    body = b"".join(
        f"--B\r\nContent-Disposition: form-data; name={name}\r\n\r\n{fields[name]}\r\n".encode()
        for name in ORDERS[client_of]
    )
    body += b"--B\r\nContent-Disposition: form-data; name=file\r\n\r\n" + picture() + b"\r\n--B--\r\n"
    answer = await client.post("/oss/", content=body, headers={"content-type": "multipart/form-data; boundary=B"})
    assert (answer.status_code, answer.content) == (status, b"")
    assert (await ask(client, "oss://" + fields["key"])).status_code == 200


async def test_refusals_are_xml(client: httpx.AsyncClient, stored: Path) -> None:
    fields = form(await certificate(client), "a.png")
    status, code, _ = said(await post(client, {**fields, "Signature": "no"}, picture()))
    assert (status, code) == (403, "SignatureDoesNotMatch")
    status, code, message = said(await post(client, {**fields, "key": "x/<&>.png"}, picture()))
    assert (status, code) == (403, "AccessDenied")
    assert message.startswith("Invalid according to Policy: Policy Condition failed: [")
    status, code, message = said(await post(client, fields, b"x" * (MAX_BYTES + 1)))
    assert (status, code) == (400, "EntityTooLarge")
    assert str(MAX_BYTES) in message
    answer = await client.get("/oss")
    assert said(answer)[:2] == (400, "InvalidParameter")
    assert lying_in(stored) == []


@pytest.mark.parametrize(
    ("body", "content_type", "code"),
    [
        (b"", "multipart/form-data; boundary=B", "MalformedPOSTRequest"),
        (b"garbage", "multipart/form-data; boundary=B", "MalformedPOSTRequest"),
        (b"{}", "application/json", "MalformedPOSTRequest"),
        (b"--B--\r\n", "multipart/form-data; boundary=B", "IncorrectNumberOfFilesInPOSTRequest"),
        (
            b"--B\r\nContent-Disposition: form-data; name=key\r\n\r\n" + b"x" * 20_000 + b"\r\n--B--\r\n",
            "multipart/form-data; boundary=B",
            "MalformedPOSTRequest",
        ),
        (
            b"--B\r\nContent-Disposition: form-data; name=file\r\n\r\nx\r\n--B--\r\n",
            "multipart/form-data; boundary=B",
            "AccessDenied",
        ),
    ],
)
async def test_what_is_no_form_is_refused(
    client: httpx.AsyncClient, stored: Path, body: bytes, content_type: str, code: str
) -> None:
    answer = await client.post("/oss", content=body, headers={"content-type": content_type})
    assert said(answer)[1] == code
    assert said(answer)[0] in (400, 403)
    assert lying_in(stored) == []


@pytest.mark.parametrize("sent", [0, 100, MAX_BYTES // 2, -5000])
async def test_a_client_that_goes_away_leaves_nothing(
    app: Router, client: httpx.AsyncClient, stored: Path, sent: int
) -> None:
    """Straight on ASGI: what a server tells of a connection that ends in the middle of a body."""
    fields = form(await certificate(client), "a.png")
    request = client.build_request("POST", "/oss", data=fields, files={"file": ("a.png", b"x" * (MAX_BYTES // 2))})
    whole = await request.aread()
    told: list[Message] = [
        {"type": "http.request", "body": whole[:sent], "more_body": True},
        {"type": "http.disconnect"},
    ]
    answered: list[Message] = []

    async def receive() -> Message:
        return told.pop(0)

    async def send(message: Message) -> None:
        answered.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/oss",
        "query_string": b"",
        "headers": [(b"content-type", request.headers["content-type"].encode())],
    }
    await app(scope, receive, send)
    assert (told, answered) == ([], [])
    assert lying_in(stored) == []


async def test_a_form_of_endless_texts_is_refused_before_they_are_held(app: Router) -> None:
    """Nobody knows yet who sends them."""
    fields = {f"field-{number}": "x" * 16_000 for number in range(50)}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as anybody:
        answer = await anybody.post("/oss", data=fields, files={"file": b"data"})
    assert answer.status_code == 400
    assert "<Code>MalformedPOSTRequest</Code>" in answer.text


async def test_a_form_that_drips_is_given_up_before_its_file(settings: Settings) -> None:
    """Each piece comes in time, and they never end."""
    records = database.at(settings.data)
    post = FormPost(
        Uploads(records, objects.at(None, settings.data)), Policies(Signer(records), MAX_BYTES), fields_within=0.1
    )
    told = [b'--x\r\ncontent-disposition: form-data; name="key"\r\n\r\n']

    async def receive() -> Message:
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": told.pop() if told else b"a", "more_body": True}

    async def send(_: Message) -> None:
        raise AssertionError

    headers = [(b"content-type", b"multipart/form-data; boundary=x")]
    scope = {"type": "http", "method": "POST", "path": "/oss", "query_string": b"", "headers": headers}
    with pytest.raises(RequestTimeout):
        await asyncio.wait_for(post(Call(Exchange(scope, receive, send))), 20)
    await database.close(records)
