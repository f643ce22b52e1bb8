"""The Files endpoints through the whole app."""

from __future__ import annotations

from typing import Any

import httpx
import pytest


async def upload(
    client: httpx.AsyncClient, name: str = "a.jsonl", data: bytes = b"{}\n", purpose: str = "batch"
) -> str:
    response = await client.post("/v1/files", files={"file": (name, data)}, data={"purpose": purpose})
    assert response.status_code == 200
    return str(response.json()["id"])


async def test_a_file_from_its_upload_to_its_deletion(client: httpx.AsyncClient) -> None:
    data = b"line\n" * 1000
    response = await client.post("/v1/files", files={"file": ("年报.jsonl", data)}, data={"purpose": "batch"})
    file = response.json()
    assert file == {
        "id": file["id"],
        "object": "file",
        "bytes": 5000,
        "filename": "年报.jsonl",
        "purpose": "batch",
        "status": "processed",
        "created_at": file["created_at"],
    }
    assert file["id"].startswith("file-batch-")
    path = f"/compatible-mode/v1/files/{file['id']}"
    assert (await client.get(path)).json() == file
    assert (await client.get(f"{path}/content")).content == data
    assert (await client.delete(path)).json() == {"id": file["id"], "object": "file", "deleted": True}
    for gone in (await client.get(path), await client.get(f"{path}/content"), await client.delete(path)):
        assert (gone.status_code, gone.json()["error"]["code"]) == (404, "not_found")


async def test_the_purpose_may_come_first(client: httpx.AsyncClient) -> None:
    files: Any = [("purpose", (None, "file-extract")), ("file", ("a.txt", b"hi"))]
    response = await client.post("/v1/files", files=files)
    assert response.json()["id"].startswith("file-fe-")


async def test_an_empty_file(client: httpx.AsyncClient) -> None:
    file_id = await upload(client, data=b"")
    assert (await client.get(f"/v1/files/{file_id}/content")).content == b""


async def test_the_list_of_files(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/files")).json() == {"object": "list", "data": [], "has_more": False}
    ids = [await upload(client, name) for name in ("a", "b", "c")]
    other = await upload(client, "d", purpose="file-extract")
    listed = (await client.get("/v1/files", params={"purpose": "batch"})).json()["data"]
    assert [file["id"] for file in listed] == ids[::-1]
    page = (await client.get("/v1/files", params={"after": other, "limit": 2})).json()
    assert ([file["id"] for file in page["data"]], page["has_more"]) == ([ids[2], ids[1]], True)
    page = (await client.get("/v1/files", params={"order": "asc", "limit": 1})).json()
    assert [file["id"] for file in page["data"]] == ids[:1]
    assert (await client.get("/v1/files", params={"after": "file-none"})).status_code == 404


@pytest.mark.parametrize(
    ("files", "param"),
    [
        ([("file", ("a", b"x"))], "purpose"),
        ([("file", ("a", b"x")), ("purpose", (None, "fun"))], "purpose"),
        ([("purpose", (None, "batch"))], "file"),
        ([("file", ("a", b"x")), ("file", ("b", b"x")), ("purpose", (None, "batch"))], None),
        ([("purpose", (None, "x" * 9999)), ("file", ("a", b"x"))], None),
    ],
)
async def test_forms_that_are_none(client: httpx.AsyncClient, files: Any, param: str | None) -> None:
    response = await client.post("/v1/files", files=files)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert (await client.get("/v1/files")).json()["data"] == []


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data", "multipart/form-data; boundary=x", ""])
async def test_a_body_that_is_no_form(client: httpx.AsyncClient, kind: str) -> None:
    response = await client.post("/v1/files", content=b"{}", headers={"content-type": kind})
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("path", ["/v1/files", "/v1/batches"])
@pytest.mark.parametrize("moment", ["00010101000000", "99991231235959"])
async def test_a_list_can_begin_and_end_at_any_time(client: httpx.AsyncClient, path: str, moment: str) -> None:
    query = {"create_after": moment, "create_before": moment}
    assert (await client.get(path, params=query)).json()["data"] == []
