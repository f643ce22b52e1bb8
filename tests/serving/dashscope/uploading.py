"""What uploads are tried with: the parts without HTTP, and the calls of a client."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from serving.dashscope.policy import Policies
from serving.generation import Caller
from serving.storage.uploads import Uploads
from tests.serving.conftest import PATH
from tests.serving.storage.test_objects import pieces
from tests.serving.wire import user

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


async def certificate(client: httpx.AsyncClient, **headers: str) -> dict[str, Any]:
    answer = await client.get("/api/v1/uploads", params={"action": "getPolicy", "model": MODEL}, headers=headers)
    assert answer.status_code == 200
    return dict(answer.json()["data"])


async def post(client: httpx.AsyncClient, fields: dict[str, str], data: bytes, name: str = "a.png") -> httpx.Response:
    return await client.post("/oss", data=fields, files={"file": (name, data)}, headers={"authorization": ""})


async def ask(client: httpx.AsyncClient, *urls: str, **headers: str) -> httpx.Response:
    body = {"model": MODEL, "input": {"messages": [user(*({"image": url} for url in urls), "?")]}}
    return await client.post(PATH, json=body, headers={"x-dashscope-ossresourceresolve": "enable", **headers})


def said(answer: httpx.Response) -> tuple[int, str, str]:
    """Status, code and message of an error in the form of OSS."""
    assert answer.headers["content-type"] == "application/xml"
    code, message = (re.search(f"<{tag}>(.*)</{tag}>", answer.text) for tag in ("Code", "Message"))
    assert code
    assert message
    assert f"<RequestId>{answer.headers['x-request-id']}</RequestId>" in answer.text
    return answer.status_code, code[1], message[1]
