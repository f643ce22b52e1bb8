from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import orjson
from starlette.routing import Route

from serving.access.grant import Scope
from serving.access.keyring import Keyring
from serving.dashscope.oss import OSS, XML, Refusal, refusing
from serving.dashscope.policy import Granted, Policies
from serving.dialects import NATIVE
from serving.endpoint import Call, Endpoint
from serving.errors import EmptyModel, FileQuotaExceeded, InvalidRequest, MalformedBody, ModelNotFound, RequestTimeout
from serving.multipart import Form, text
from serving.settings import Settings
from serving.storage.objects import ObjectTooLarge
from serving.storage.uploads import Uploads

TARGET = "/oss"
FIELD_BYTES = 16_384
"""The longest text field of a form; a policy has less than a thousand."""
FORM_BYTES = 65_536
"""Names and texts of one form: it is held before anything is known about who sends it."""
IDLE_S = 60.0
"""Seconds for which nothing may come of an upload, and in which all fields before the file come: until then nobody has
shown a key."""
MALFORMED = "The body of your POST request is not well-formed multipart/form-data."


def routes(uploads: Uploads, policies: Policies, keyring: Keyring, settings: Settings) -> list[Route]:
    """Where to get a certificate for an upload, and the form target that it names."""
    scopes: tuple[Scope, ...] = ("files", "multimodal-generation")
    issue = Endpoint(Certificates(policies, settings), keyring, NATIVE, methods=("GET",), scopes=scopes)
    target = Endpoint(refusing(FormPost(uploads, policies)), None, OSS)
    return [
        *(Route(f"/api/v1/uploads{slash}", issue) for slash in ("", "/")),
        *(Route(f"{TARGET}{slash}", target) for slash in ("", "/")),
    ]


class Certificates:
    """GET /api/v1/uploads?action=getPolicy&model=..."""

    def __init__(self, policies: Policies, settings: Settings) -> None:
        self._policies = policies
        self._settings = settings

    async def __call__(self, call: Call) -> None:
        query = call.exchange.query
        if query.get("action") != "getPolicy":
            raise InvalidRequest(f"The action {query.get('action', '')[:80]!r} is not supported, 'getPolicy' is.")
        model = query.get("model")
        if not model:
            raise EmptyModel
        if model not in self._settings.served_models:
            raise ModelNotFound(model, self._settings.served_models)
        call.model = model
        host = (self._settings.public_url or call.exchange.origin).rstrip("/") + TARGET
        certificate = await self._policies.issue(call.caller, model, host)
        # Under `data`, and without `output`: the Java SDK reads the one only where the other is absent.
        await call.exchange.answer(200, orjson.dumps({"request_id": call.exchange.request_id, "data": certificate}))


class FormPost:
    """What takes the form, in the manner of OSS: the policy in it is what lets a client in."""

    def __init__(self, uploads: Uploads, policies: Policies, *, fields_within: float = IDLE_S) -> None:
        """`fields_within` in seconds."""
        self._fields_within = fields_within
        self._uploads = uploads
        self._policies = policies

    async def __call__(self, call: Call) -> None:
        await call.exchange.answer(await self._receive(call), b"", content_type=XML)

    async def _receive(self, call: Call) -> int:
        """The status to answer with. What comes after the file is not read, as in OSS."""
        fields: dict[str, str] = {}
        left = FORM_BYTES
        try:
            async with (
                asyncio.timeout(self._fields_within) as deadline,
                aclosing(call.exchange.chunks(IDLE_S)) as chunks,
            ):
                form = Form(call.exchange.header("content-type"), chunks)
                async with aclosing(form.fields()) as parts:
                    async for part, pieces in parts:
                        if part.name != "file":
                            value = await text(pieces, min(FIELD_BYTES, left))
                            left = max(0, left - len(part.name) - len(value))
                            fields[part.name.lower()] = value
                            continue
                        granted = await self._policies.check(fields, part.filename or "")
                        deadline.reschedule(None)
                        call.model = granted.model
                        await self._keep(granted, pieces)
                        return 200 if fields.get("success_action_status") == "200" else 204
        except TimeoutError:
            raise RequestTimeout from None
        except MalformedBody as error:
            raise Refusal(400, "MalformedPOSTRequest", f"{MALFORMED} {error.message}") from None
        raise Refusal(400, "IncorrectNumberOfFilesInPOSTRequest", "POST requires exactly one file upload per request.")

    async def _keep(self, granted: Granted, pieces: AsyncGenerator[bytes, None]) -> None:
        try:
            await self._uploads.keep(granted.key, granted.owner, granted.model, pieces, granted.limit)
        except ObjectTooLarge as error:
            raise Refusal(
                400,
                "EntityTooLarge",
                f"Your proposed upload exceeds the maximum allowed size. The limit is {error.limit} bytes.",
            ) from None
        except FileQuotaExceeded as error:
            raise Refusal(403, "QuotaExceeded", error.message) from None
