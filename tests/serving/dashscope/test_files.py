from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.access.grant import Grant
from serving.access.keys import KeyStore
from serving.access.signer import Signer
from serving.dashscope.links import VALID_S, Links
from serving.dashscope.oss import Refusal
from serving.settings import Settings
from serving.storage import database
from serving.storage.files import File
from tests.serving.dashscope.uploading import Clock, said
from tests.serving.storage.test_objects import lying_in

MAX_BYTES = 1 << 20
UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path / "data", max_upload_bytes=MAX_BYTES)


async def send(client: httpx.AsyncClient, *files: tuple[str, bytes], **fields: Any) -> Any:
    answer = await client.post("/api/v1/files", files=[("files", file) for file in files], data=fields)
    assert answer.status_code == 200, answer.text
    assert sorted(answer.json()) == ["data", "request_id"]
    return answer.json()["data"]


async def listed(client: httpx.AsyncClient, **params: int) -> Any:
    return (await client.get("/api/v1/files", params=params)).json()["data"]


async def test_files_are_sent_listed_read_and_deleted(client: httpx.AsyncClient, settings: Settings) -> None:
    data = await send(
        client, ("图 表.jsonl", b"one"), ("b.jsonl", b"two!"), descriptions=["first", "second"], purpose="batch"
    )
    assert data["failed_uploads"] == []
    assert [file["name"] for file in data["uploaded_files"]] == ["图 表.jsonl", "b.jsonl"]
    one, two = [file["file_id"] for file in data["uploaded_files"]]
    assert re.fullmatch(UUID, one)

    page = await listed(client)
    assert (page["total"], page["page_no"], page["page_size"]) == (2, 1, 10)
    assert [file["file_id"] for file in page["files"]] == [two, one]
    file = page["files"][1]
    assert (file["name"], file["description"], file["size"]) == ("图 表.jsonl", "first", 3)
    assert file["md5"] == base64.b64encode(hashlib.md5(b"one").digest()).decode()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", file["gmt_create"])
    assert isinstance(file["id"], int)
    assert sorted(file) == sorted(
        ["id", "name", "description", "size", "md5", "region", "file_id", "url", "user_id", "api_key_id", "gmt_create"]
    )

    answer = (await client.get(f"/api/v1/files/{one}")).json()
    assert {**answer["data"], "url": ""} == {**file, "purpose": "batch", "url": ""}
    answer = (await client.delete(f"/api/v1/files/{one}")).json()
    assert list(answer) == ["request_id"]
    assert (await listed(client))["total"] == 1
    assert len(lying_in(settings.data / "objects")) == 1


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_a_missing_file_is_a_400(client: httpx.AsyncClient, method: str) -> None:
    for file_id in ("none", "..%5C..%5Chomescope.db", "x" * 5000, "中"):
        answer = await client.request(method, f"/api/v1/files/{file_id}")
        assert (answer.status_code, answer.json()["code"]) == (400, "InvalidParameter")
        assert answer.json()["message"] == "File not found."


async def test_a_key_sees_only_its_own_files(client: httpx.AsyncClient, settings: Settings) -> None:
    records = database.at(settings.data)
    headers = {"authorization": f"Bearer {await KeyStore(records).create('other')}"}
    await database.close(records)
    (file,) = (await send(client, ("a", b"1")))["uploaded_files"]
    path = f"/api/v1/files/{file['file_id']}"
    assert (await client.get("/api/v1/files", headers=headers)).json()["data"]["total"] == 0
    assert (await client.get(path, headers=headers)).status_code == 400
    assert (await client.delete(path, headers=headers)).status_code == 400
    assert (await client.get(path)).status_code == 200


async def test_pages(client: httpx.AsyncClient) -> None:
    await send(client, *((str(number), b"") for number in range(5)))
    names = [[file["name"] for file in (await listed(client, page_no=n, page_size=2))["files"]] for n in (1, 2, 3, 4)]
    assert names == [["4", "3"], ["2", "1"], ["0"], []]


@pytest.mark.parametrize("params", ["page_no=0", "page_size=101", "page_no=x", "page_no=-1", "page_no=99999999999999"])
async def test_a_page_that_is_none_is_refused(client: httpx.AsyncClient, params: str) -> None:
    answer = await client.get(f"/api/v1/files?{params}")
    assert (answer.status_code, answer.json()["code"]) == (400, "InvalidParameter")
    assert params.split("=")[0] in answer.json()["message"]


async def test_a_file_that_is_too_large_fails_alone(client: httpx.AsyncClient, settings: Settings) -> None:
    data = await send(client, ("large", b"x" * (MAX_BYTES + 1)), ("small", b"x"), descriptions=["l", "s"])
    assert [file["name"] for file in data["uploaded_files"]] == ["small"]
    (failed,) = data["failed_uploads"]
    assert (failed["name"], failed["code"]) == ("large", "BadRequest.TooLarge")
    assert str(MAX_BYTES) in failed["message"]
    assert [file["description"] for file in (await listed(client))["files"]] == ["s"]
    assert len(lying_in(settings.data / "objects")) == 1


async def test_too_many_files_are_refused(client: httpx.AsyncClient, settings: Settings) -> None:
    answer = await client.post("/api/v1/files", files=[("files", (str(n), b"1")) for n in range(11)])
    assert (answer.status_code, answer.json()["code"]) == (400, "BadRequest.TooMany")
    assert lying_in(settings.data / "objects") == []


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", "multipart/form-data; boundary=B"),
        (b"--B--\r\n", "multipart/form-data; boundary=B"),
        (b"{}", "application/json"),
        (b"--B\r\nContent-Disposition: form-data; name=files\r\n\r\nx", "multipart/form-data; boundary=B"),
        (
            b"--B\r\nContent-Disposition: form-data; name=files\r\n\r\nx\r\n"
            b"--B\r\nContent-Disposition: form-data; name=descriptions\r\n\r\n\xff\r\n--B--",
            "multipart/form-data; boundary=B",
        ),
    ],
)
async def test_what_is_no_form_leaves_nothing(
    client: httpx.AsyncClient, settings: Settings, body: bytes, content_type: str
) -> None:
    answer = await client.post("/api/v1/files", content=body, headers={"content-type": content_type})
    assert (answer.status_code, answer.json()["code"]) == (400, "InvalidParameter")
    assert lying_in(settings.data / "objects") == []
    assert (await listed(client))["total"] == 0


async def test_all_of_it_needs_a_key(client: httpx.AsyncClient) -> None:
    for method, path in (
        ("GET", "files"),
        ("POST", "files"),
        ("GET", "files/x"),
        ("DELETE", "files/x"),
        ("GET", "models"),
    ):
        answer = await client.request(method, f"/api/v1/{path}", headers={"authorization": ""})
        assert (answer.status_code, answer.json()["code"]) == (401, "InvalidApiKey")


# Links


async def link(client: httpx.AsyncClient, data: bytes = b"0123456789", name: str = "图 表.txt") -> str:
    await send(client, (name, data))
    return str((await listed(client))["files"][0]["url"])


async def test_a_link_needs_no_key(client: httpx.AsyncClient) -> None:
    url = await link(client)
    assert url.startswith("http://test/downloads/")
    answer = await client.get(url, headers={"authorization": ""})
    assert (answer.status_code, answer.content) == (200, b"0123456789")
    assert answer.headers["content-length"] == "10"
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''%E5%9B%BE%20%E8%A1%A8.txt"
    assert answer.headers["x-content-type-options"] == "nosniff"
    head = await client.head(url)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "10")


@pytest.mark.parametrize(
    ("wanted", "content", "told"),
    [
        ("bytes=2-4", b"234", "bytes 2-4/10"),
        ("bytes=8-", b"89", "bytes 8-9/10"),
        ("bytes=8-99", b"89", "bytes 8-9/10"),
        ("bytes=-3", b"789", "bytes 7-9/10"),
        ("bytes=-99", b"0123456789", "bytes 0-9/10"),
    ],
)
async def test_a_link_leads_to_a_range(client: httpx.AsyncClient, wanted: str, content: bytes, told: str) -> None:
    answer = await client.get(await link(client), headers={"range": wanted})
    assert (answer.status_code, answer.content, answer.headers["content-range"]) == (206, content, told)


@pytest.mark.parametrize("wanted", ["bytes=0-1,3-4", "lines=1-2", "bytes=", "bytes=-"])
async def test_another_range_is_the_whole(client: httpx.AsyncClient, wanted: str) -> None:
    answer = await client.get(await link(client), headers={"range": wanted})
    assert (answer.status_code, answer.content) == (200, b"0123456789")


@pytest.mark.parametrize("wanted", ["bytes=10-", "bytes=5-4", "bytes=-0"])
async def test_a_range_beyond_the_end_is_refused(client: httpx.AsyncClient, wanted: str) -> None:
    answer = await client.get(await link(client), headers={"range": wanted})
    assert said(answer)[:2] == (416, "InvalidRange")


async def test_an_empty_file_is_read(client: httpx.AsyncClient) -> None:
    answer = await client.get(await link(client, b""))
    assert (answer.status_code, answer.content) == (200, b"")


async def test_a_link_that_was_changed_is_refused(client: httpx.AsyncClient) -> None:
    url = await link(client)
    path, _, query = url.partition("?")
    expires = query.partition("=")[2].partition("&")[0]
    for changed in (
        path,
        f"{path}x?{query}",
        url.replace(expires, str(int(expires) + 1)),
        url.replace("Signature=", "Signature=A"),
        url.replace("Signature=", "Signature=%FF"),
        url.replace("Owner=", "Owner=x"),
        re.sub("Expires=[0-9]*", "Expires=", url),
    ):
        assert said(await client.get(changed))[:2] == (403, "SignatureDoesNotMatch")


async def test_a_link_to_a_deleted_file_leads_nowhere(client: httpx.AsyncClient) -> None:
    url = await link(client)
    await client.delete("/api/v1/files/" + (await listed(client))["files"][0]["file_id"])
    assert said(await client.get(url))[:2] == (404, "NoSuchKey")


async def test_a_link_ends_after_a_day(tmp_path: Path) -> None:
    records, clock = database.at(tmp_path), Clock()
    await database.create_tables(records, tmp_path)
    links = Links(Signer(records), clock=clock)
    file = File(1, "file-1", "me", "a", "batch", "", 0, b"", "", None, None)  # type: ignore[arg-type]
    query = dict(httpx.URL(await links.to(file, "http://test/")).params)
    clock.now += VALID_S - 1
    assert await links.owner("file-1", query) == "me"
    clock.now += 1
    with pytest.raises(Refusal, match="Request has expired"):
        await links.owner("file-1", query)
    await database.close(records)


# Models


async def test_models(client: httpx.AsyncClient, settings: Settings) -> None:
    answer = (await client.get("/api/v1/models?page_no=1&page_size=2")).json()
    assert sorted(answer) == ["output", "request_id"]
    output = answer["output"]
    assert (output["total"], output["page_no"], output["page_size"]) == (len(settings.served_models), 1, 2)
    assert [model["model"] for model in output["models"]] == list(settings.served_models[:2])
    assert output["models"][0] == {"model": "qwen3-vl-30b", "source": "system", "provider": "qwen", "opensource": True}
    assert (await client.get("/api/v1/models/?page_no=9")).json()["output"]["models"] == []
    one = (await client.get("/api/v1/models?model=qwen3-vl-30b-a3b-instruct")).json()["output"]
    assert [model["model"] for model in one["models"]] == ["qwen3-vl-30b-a3b-instruct"]
    assert (await client.get("/api/v1/models?model=none")).json()["output"]["total"] == 0


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("path", ["/api/v1/files", "/api/v1/files/", "/api/v1/files/some", "/v1/files"])
async def test_files_need_their_scope(client: httpx.AsyncClient, settings: Settings, method: str, path: str) -> None:
    records = database.at(settings.data)
    secret = await KeyStore(records).create("chat", Grant(scopes=frozenset({"text-generation"})))
    await database.close(records)
    client.headers["authorization"] = f"Bearer {secret}"
    answer = await client.request(method, path)
    assert answer.status_code == 403
    assert "scope files" in answer.text
