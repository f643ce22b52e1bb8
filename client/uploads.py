from __future__ import annotations

import asyncio
import hashlib
import json
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import httpx

from client import wire
from client.errors import BadResponse, HomescopeError, ServiceError
from client.http import Connections
from client.images import check, data_uri

Delivery: TypeAlias = Literal["auto", "inline", "upload"]

PATH = "/uploads"

_FORM_BYTES = 3_000
"""What an upload sends beside the file: the form with its policy (1.6 kB), headers, a share of the certificate."""

_KEPT_SECONDS = 47 * 3600.0
"""The cloud keeps an upload for 48 hours."""

_REMEMBERED = 4096
_REST_SECONDS = 60.0
"""After an upload that failed for now: images do not queue for a store that does not answer."""

_EXPIRY_MARGIN = 30.0


@dataclass(frozen=True, slots=True)
class _Certificate:
    """Leave to upload into one folder. `until` is in seconds of `time.monotonic`."""

    fields: dict[str, Any]
    until: float


class Kept(Protocol):
    """Where addresses of uploads outlive the process, such as a ledger. None of this raises where it cannot be done."""

    async def address(self, name: str) -> str | None:
        """The `oss://` address of an upload that can still be used; None when there is none."""
        ...

    async def keep_address(self, name: str, address: str, seconds: float) -> None:
        """Keeps it, on the disk when this returns, for so long."""
        ...

    async def forget_address(self, name: str) -> None:
        """The server does not have it any more."""
        ...


class Uploads:
    """How the bytes of an image reach the server: inside the request, or through its store, as the DashScope SDK does.

    Base64 makes an image a third larger; an upload costs a form and a round trip more, and nothing the second time.
    A certificate is asked for once per model and used until it expires.

    Args:
        http: the session's connections.
        base_url: with its `/api/v1`.
        authorization: the header of the session's key; the store itself never sees it.
        delivery: `auto` takes what sends fewer bytes.

    Attributes:
        kept: where addresses outlive this process; None: nowhere.
    """

    def __init__(self, http: Connections, base_url: str, authorization: str, delivery: Delivery) -> None:
        self._http, self._base_url, self._authorization = http, base_url, authorization
        self._delivery = delivery
        self._certificates: dict[str, _Certificate] = {}
        self._asking = asyncio.Lock()
        self._rests_until = 0.0
        self._known: dict[str, tuple[str, float]] = {}
        self._recalled: dict[str, str] = {}
        self.kept: Kept | None = None

    async def reference(self, data: bytes, model: str) -> str:
        """A data URI or an `oss://` address.

        Raises:
            UnusableImage: as `images.check`.
            HomescopeError: of an upload, where nothing else is allowed.
        """
        if self._delivery == "inline" or (self._delivery == "auto" and not self._worth_it(len(data))):
            return data_uri(data)
        name = self._name(data, model)
        if address := await self._recall(name):
            return address
        try:
            address = await self._upload(data, model)
        except HomescopeError as error:
            if self._delivery == "upload":
                raise
            if isinstance(error, ServiceError) and not error.retryable:
                self._delivery = "inline"  # no store there, and there will be none for the next image
            self._rests_until = time.monotonic() + _REST_SECONDS
            return data_uri(data)
        await self._remember(name, address)
        return address

    async def forget(self, references: Iterable[str]) -> bool:
        """After a refusal: whether an upload of an earlier process is among them. It is not used again."""
        gone = [self._recalled.pop(each) for each in references if each in self._recalled]
        for name in gone:
            if self.kept is not None:
                await self.kept.forget_address(name)
        return bool(gone)

    def _name(self, data: bytes, model: str) -> str:
        """One place, one account, one model, one image."""
        name = hashlib.sha256(f"{self._base_url}\n{self._authorization}\n{model}\n".encode())
        name.update(hashlib.sha256(data).digest())
        return name.hexdigest()

    async def _recall(self, name: str) -> str | None:
        address, until = self._known.get(name, ("", 0.0))
        if time.monotonic() < until:
            return address
        earlier = None if self.kept is None else await self.kept.address(name)
        if earlier is not None:
            self._recalled[earlier] = name
        return earlier

    def _worth_it(self, size: int) -> bool:
        return _uploading_is_smaller(size) and time.monotonic() >= self._rests_until

    async def _remember(self, name: str, address: str) -> None:
        if len(self._known) >= _REMEMBERED:
            del self._known[next(iter(self._known))]
        self._known[name] = address, time.monotonic() + _KEPT_SECONDS
        if self.kept is not None:
            await self.kept.keep_address(name, address, _KEPT_SECONDS)

    async def _upload(self, data: bytes, model: str) -> str:
        kind = check(data)
        fields = (await self._certificate(model)).fields
        try:
            key = f"{fields['upload_dir']}/{uuid.uuid4().hex}.{kind.removeprefix('image/')}"
            form = httpx.Request(
                "POST", fields["upload_host"], data=_form(fields, key), files={"file": (key, data, kind)}
            )
        except (KeyError, TypeError, httpx.InvalidURL) as error:
            raise BadResponse("the server's upload certificate is not one of DashScope's") from error
        headers = {name: form.headers[name] for name in ("Content-Type",)}
        reply = await self._http.send("POST", str(form.url), await form.aread(), headers)
        if not reply.ok:
            raise wire.refusal(reply.status, reply.body, reply.headers)
        return f"oss://{key}"

    async def _certificate(self, model: str) -> _Certificate:
        async with self._asking:
            if self._delivery != "upload" and time.monotonic() < self._rests_until:
                raise BadResponse("the store failed a moment ago")
            known = self._certificates.get(model)
            if known is None or known.until < time.monotonic():
                known = self._certificates[model] = await self._ask_for_certificate(model)
            return known

    async def _ask_for_certificate(self, model: str) -> _Certificate:
        url = httpx.URL(self._base_url + PATH, params={"action": "getPolicy", "model": model})
        reply = await self._http.send("GET", str(url), b"", {"Authorization": self._authorization})
        if not reply.ok:
            raise wire.refusal(reply.status, reply.body, reply.headers)
        try:
            fields = json.loads(reply.body)["data"]
            seconds = float(fields["expire_in_seconds"])
        except (ValueError, KeyError, TypeError) as error:
            raise BadResponse("the server's upload certificate is not one of DashScope's") from error
        return _Certificate(fields, time.monotonic() + seconds - _EXPIRY_MARGIN)


def _uploading_is_smaller(size: int) -> bool:
    return size + _FORM_BYTES < (size + 2) // 3 * 4


def _form(fields: dict[str, Any], key: str) -> dict[str, str]:
    """In the order in which the cloud's own SDK sends them; the file comes last."""
    return {
        "OSSAccessKeyId": str(fields["oss_access_key_id"]),
        "Signature": str(fields["signature"]),
        "policy": str(fields["policy"]),
        "key": key,
        "x-oss-object-acl": str(fields["x_oss_object_acl"]),
        "x-oss-forbid-overwrite": str(fields["x_oss_forbid_overwrite"]),
        "success_action_status": "200",
    }
