from __future__ import annotations

import base64
import json
import re
import tracemalloc
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.routing import Router
from starlette.types import Message

from serving.access.keys import KeyStore
from serving.access.signer import Signer
from serving.app import create_app
from serving.budget import Budget
from serving.dashscope.oss import Refusal
from serving.dashscope.policy import EXPIRES_IN_S, Policies
from serving.errors import FileQuotaExceeded, InvalidRequest
from serving.generation import Caller, Timeline
from serving.media.fetch import Fetcher, FetchRules
from serving.media.images import Limits
from serving.media.references import Errand, References
from serving.settings import Settings
from serving.storage import database, objects
from serving.storage.uploads import LIFETIME_S, Uploads
from tests.fakes import FakeEngine
from tests.serving.conftest import PATH
from tests.serving.storage.test_objects import lying_in, pieces
from tests.serving.wire import picture, user

ME, YOU = Caller("me", "me"), Caller("you", "you")
MODEL = "qwen3-vl-30b"
MAX_BYTES = 1 << 20


@dataclass
class Clock:
    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Parts:
    """What takes uploads, without HTTP and with a clock of its own."""

    uploads: Uploads
    policies: Policies
    folder: Path
    clock: Clock

    async def fields(self, name: str = "a.png", caller: Caller = ME, **changed: str) -> dict[str, str]:
        certificate = await self.policies.issue(caller, MODEL, "http://test/oss")
        fields = form(certificate, name)
        return {key.lower(): value for key, value in {**fields, **changed}.items()}

    async def keep(self, key: str, data: bytes, caller: Caller = ME) -> str:
        await self.uploads.keep(key, caller.key_id, MODEL, pieces(data), MAX_BYTES)
        return f"oss://{key}"


def form(certificate: dict[str, Any], name: str) -> dict[str, str]:
    """The fields as the Python SDK sends them before the file."""
    return {
        "OSSAccessKeyId": certificate["oss_access_key_id"],
        "Signature": certificate["signature"],
        "policy": certificate["policy"],
        "key": f"{certificate['upload_dir']}/{name}",
        "x-oss-object-acl": certificate["x_oss_object_acl"],
        "x-oss-forbid-overwrite": certificate["x_oss_forbid_overwrite"],
        "success_action_status": "200",
        "x-oss-content-type": "image/png",
    }


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncGenerator[Parts, None]:
    records, store, clock = database.at(tmp_path), objects.at(None, tmp_path), Clock()
    await database.create_tables(records, tmp_path)
    await store.start()
    policies = Policies(Signer(records), MAX_BYTES, clock=clock)
    yield Parts(Uploads(records, store, clock=clock), policies, tmp_path / "objects", clock)
    await store.aclose()
    await records.dispose()


# What an upload is worth


async def test_an_upload_is_read_by_its_owner_alone(parts: Parts) -> None:
    url = await parts.keep("dir/a.png", b"mine")
    assert await parts.uploads.read(url, ME, MAX_BYTES) == b"mine"
    with pytest.raises(InvalidRequest, match=r"Failed to download multimodal content\. .*no upload of this API key"):
        await parts.uploads.read(url, YOU, MAX_BYTES)


@pytest.mark.parametrize("url", ["oss://", "oss://dir", "oss://dir/a.png/", "oss://dir/../dir/a.png", "oss://x\0", "x"])
async def test_an_unknown_url_is_refused(parts: Parts, url: str) -> None:
    await parts.keep("dir/a.png", b"mine")
    with pytest.raises(InvalidRequest):
        await parts.uploads.read(url, ME, MAX_BYTES)


async def test_an_upload_that_is_too_large_for_its_use_is_not_read(parts: Parts) -> None:
    url = await parts.keep("dir/a.png", b"12345")
    with pytest.raises(InvalidRequest, match=r"too large\. The limit is 4 bytes, got 5"):
        await parts.uploads.read(url, ME, 4)


async def test_an_upload_ends_after_two_days(parts: Parts) -> None:
    url = await parts.keep("dir/a.png", b"old")
    parts.clock.now += LIFETIME_S - 1
    young = await parts.keep("dir/b.png", b"young")
    assert await parts.uploads.sweep() == 0
    assert await parts.uploads.read(url, ME, MAX_BYTES) == b"old"
    parts.clock.now += 1
    with pytest.raises(InvalidRequest):
        await parts.uploads.read(url, ME, MAX_BYTES)
    assert await parts.uploads.sweep() == 1
    assert len(lying_in(parts.folder)) == 1
    assert await parts.uploads.read(young, ME, MAX_BYTES) == b"young"


async def test_uploads_under_one_key_are_read_in_their_order(parts: Parts) -> None:
    url = await parts.keep("dir/a.png", b"earlier")
    assert await parts.uploads.read(url, ME, MAX_BYTES, occurrence=(1, 2)) == b"earlier"
    await parts.keep("dir/a.png", b"first")
    await parts.keep("dir/a.png", b"second")
    read = [await parts.uploads.read(url, ME, MAX_BYTES, occurrence=(index, 2)) for index in range(2)]
    assert read == [b"first", b"second"]
    assert await parts.uploads.read(url, ME, MAX_BYTES) == b"second"


# What a policy allows


async def test_the_sdks_form_is_granted(parts: Parts) -> None:
    granted = await parts.policies.check(await parts.fields("图 表.png"), "图 表.png")
    assert granted.key.startswith("dashscope-instant/")
    assert granted.key.endswith("/图 表.png")
    assert (granted.owner, granted.model, granted.limit) == ("me", MODEL, MAX_BYTES)


async def test_oss_fills_in_the_name_of_the_file(parts: Parts) -> None:
    granted = await parts.policies.check(await parts.fields("${filename}"), "b.png")
    assert granted.key.endswith("/b.png")


async def test_a_policy_ends_after_five_minutes(parts: Parts) -> None:
    fields = await parts.fields()
    parts.clock.now += EXPIRES_IN_S - 1
    assert await parts.policies.check(fields, "")
    parts.clock.now += 1
    with pytest.raises(Refusal) as caught:
        await parts.policies.check(fields, "")
    assert (caught.value.status, caught.value.message) == (403, "Invalid according to Policy: Policy expired.")


async def test_a_policy_survives_a_restart(parts: Parts, tmp_path: Path) -> None:
    fields = await parts.fields()
    records = database.at(tmp_path)
    again = Policies(Signer(records), MAX_BYTES, clock=parts.clock)
    assert (await again.check(fields, "")).owner == "me"
    await records.dispose()


async def test_an_account_has_its_own_folder(parts: Parts) -> None:
    mine, again, yours = [
        (await parts.policies.issue(caller, MODEL, ""))["upload_dir"].split("/") for caller in (ME, ME, YOU)
    ]
    assert mine[1] == again[1] != yours[1]
    assert mine[3] != again[3]
    assert re.fullmatch(r"[0-9a-f]{32}", mine[1])
    assert mine[2] == "2027-01-15"


def forged(policy: str, **changed: Any) -> str:
    return base64.b64encode(json.dumps({**json.loads(base64.b64decode(policy)), **changed}).encode()).decode()


@pytest.mark.parametrize("field", ["policy", "key", "signature", "ossaccesskeyid"])
async def test_a_form_that_lacks_a_field_is_refused(parts: Parts, field: str) -> None:
    fields = await parts.fields()
    del fields[field]
    with pytest.raises(Refusal) as caught:
        await parts.policies.check(fields, "")
    assert (caught.value.status, caught.value.code) == (403, "AccessDenied")
    assert field in caught.value.message


async def test_what_is_not_as_it_was_signed_is_refused(parts: Parts) -> None:
    fields = await parts.fields()
    other = await parts.fields(caller=YOU)
    for changed in (
        {"policy": forged(fields["policy"], owner="you")},
        {"policy": forged(fields["policy"], expiration="2099-01-01T00:00:00.000Z")},
        {"policy": "garbage"},
        {"policy": other["policy"]},
        {"signature": other["signature"]},
        {"signature": "中"},
    ):
        with pytest.raises(Refusal) as caught:
            await parts.policies.check({**fields, **changed}, "")
        assert (caught.value.status, caught.value.code) == (403, "SignatureDoesNotMatch")
    with pytest.raises(Refusal) as caught:
        await parts.policies.check({**fields, "ossaccesskeyid": "LTAI"}, "")
    assert caught.value.code == "InvalidAccessKeyId"


@pytest.mark.parametrize(
    "changed",
    [
        {"key": "elsewhere/a.png"},
        {"key": "/etc/passwd"},
        {"x-oss-object-acl": "public-read"},
        {"x-oss-forbid-overwrite": "false"},
    ],
)
async def test_what_the_policy_does_not_allow_is_refused(parts: Parts, changed: dict[str, str]) -> None:
    with pytest.raises(Refusal) as caught:
        await parts.policies.check({**await parts.fields(), **changed}, "")
    assert caught.value.status in (400, 403)
    assert caught.value.code in ("AccessDenied", "InvalidObjectName")


async def test_a_key_beside_the_folder_is_refused(parts: Parts) -> None:
    fields = await parts.fields()
    folder = fields["key"].removesuffix("/a.png")
    with pytest.raises(Refusal, match="Policy Condition failed"):
        await parts.policies.check({**fields, "key": f"{folder}beside/a.png"}, "")


@pytest.mark.parametrize("name", ["", "..", "../a", "a/../../b", "a//b", "./a", "a\0b", "a\nb", "x" * 1100, "\x7f"])
async def test_a_name_that_is_none_is_refused(parts: Parts, name: str) -> None:
    with pytest.raises(Refusal) as caught:
        await parts.policies.check(await parts.fields(name), "")
    assert (caught.value.status, caught.value.code) == (400, "InvalidObjectName")


# On the wire


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path / "data", max_upload_bytes=MAX_BYTES)


@pytest.fixture
def stored(settings: Settings) -> Path:
    return settings.data / "objects"


async def certificate(client: httpx.AsyncClient, **headers: str) -> dict[str, Any]:
    answer = await client.get("/api/v1/uploads", params={"action": "getPolicy", "model": MODEL}, headers=headers)
    assert answer.status_code == 200
    return dict(answer.json()["data"])


async def post(client: httpx.AsyncClient, fields: dict[str, str], data: bytes, name: str = "a.png") -> httpx.Response:
    return await client.post("/oss", data=fields, files={"file": (name, data)}, headers={"authorization": ""})


async def ask(client: httpx.AsyncClient, *urls: str, **headers: str) -> httpx.Response:
    body = {"model": MODEL, "input": {"messages": [user(*({"image": url} for url in urls), "?")]}}
    return await client.post(PATH, json=body, headers={"x-dashscope-ossresourceresolve": "enable", **headers})


async def test_a_certificate_has_ten_keys_of_the_right_types(client: httpx.AsyncClient) -> None:
    answer = await client.get("/api/v1/uploads", params={"action": "getPolicy", "model": MODEL})
    assert sorted(answer.json()) == ["data", "request_id"]
    data = answer.json()["data"]
    assert {key: type(value) for key, value in data.items()} == {
        "policy": str,
        "signature": str,
        "upload_dir": str,
        "upload_host": str,
        "expire_in_seconds": int,
        "max_file_size_mb": int,
        "capacity_limit_mb": int,
        "oss_access_key_id": str,
        "x_oss_object_acl": str,
        "x_oss_forbid_overwrite": str,
    }
    assert (data["expire_in_seconds"], data["max_file_size_mb"], data["x_oss_forbid_overwrite"]) == (300, 1, "true")
    assert data["capacity_limit_mb"] < 2**31
    policy = json.loads(base64.b64decode(data["policy"]))
    assert [condition if isinstance(condition, list) else [*condition] for condition in policy["conditions"]] == [
        ["content-length-range", 0, MAX_BYTES],
        ["starts-with", "$key", data["upload_dir"]],
        ["bucket"],
        ["x-oss-object-acl"],
        ["x-oss-forbid-overwrite"],
    ]


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


async def test_an_upload_is_seen_by_the_engine(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    fields = form(await certificate(client), "图 表.png")
    assert (await post(client, fields, picture(), "图 表.png")).status_code == 200
    answer = await ask(client, "oss://" + fields["key"])
    assert answer.status_code == 200, answer.text
    (image,) = engine.history[0].images
    assert image.content is not None
    assert image.content.data == picture()


async def test_an_upload_needs_the_header(client: httpx.AsyncClient) -> None:
    fields = form(await certificate(client), "a.png")
    await post(client, fields, picture())
    answer = await ask(client, "oss://" + fields["key"], **{"x-dashscope-ossresourceresolve": ""})
    assert (answer.status_code, answer.json()["code"]) == (400, "InvalidParameter")
    assert answer.json()["message"].startswith(
        "The provided URL does not appear to be valid. Ensure it is correctly formatted."
    )


async def test_another_keys_upload_is_refused(client: httpx.AsyncClient, settings: Settings) -> None:
    records = database.at(settings.data)
    other = await KeyStore(records).create("other")
    await records.dispose()
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


def said(answer: httpx.Response) -> tuple[int, str, str]:
    """Status, code and message of an error in the form of OSS."""
    assert answer.headers["content-type"] == "application/xml"
    code, message = (re.search(f"<{tag}>(.*)</{tag}>", answer.text) for tag in ("Code", "Message"))
    assert code
    assert message
    assert f"<RequestId>{answer.headers['x-request-id']}</RequestId>" in answer.text
    return answer.status_code, code[1], message[1]


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


async def test_no_key_takes_the_disk_from_the_others(parts: Parts) -> None:
    store = objects.at(None, parts.folder.parent)
    await store.start()
    records = database.at(parts.folder.parent)
    uploads = Uploads(records, store, clock=parts.clock, quota=10)
    await uploads.keep("d/a", "me", MODEL, pieces(b"0123456789"), MAX_BYTES)
    with pytest.raises(FileQuotaExceeded, match="At most 10 bytes are kept, there are 10"):
        await uploads.keep("d/b", "me", MODEL, pieces(b"0"), MAX_BYTES)
    await uploads.keep("d/c", "you", MODEL, pieces(b"0"), MAX_BYTES)
    parts.clock.now += LIFETIME_S + 1
    await uploads.keep("d/b", "me", MODEL, pieces(b"0"), MAX_BYTES)
    await store.aclose()
    await records.dispose()


async def test_a_large_upload_is_never_held_whole(parts: Parts) -> None:
    async def zeros() -> AsyncGenerator[bytes, None]:
        for _ in range(64):
            yield bytes(1 << 20)

    await parts.uploads.keep("d/film", "me", MODEL, zeros(), 1 << 30)
    references = References(Fetcher(FetchRules()), Limits(), video_bytes=1 << 30, uploads=parts.uploads)
    file = parts.folder / "film"
    async with Budget(1 << 30, patience=1).lease() as lease:
        errand = Errand(ME, True, Timeline(), lease, Counter(["oss://d/film"]))
        tracemalloc.start()
        await references.video("oss://d/film", errand, file)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert file.stat().st_size == 64 << 20
    assert peak < 32 << 20
