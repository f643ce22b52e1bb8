from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing
from urllib.parse import quote, urlencode

from starlette.routing import Route

from serving.access.signer import Signer
from serving.dashscope.oss import OSS, Refusal, refusing, wrong_signature
from serving.endpoint import Call, Endpoint
from serving.errors import FileMissing
from serving.storage.files import File, Files

PATH = "/downloads"
VALID_S = 24 * 3600
PURPOSE = "download"
RANGE = re.compile(r"bytes=(\d{1,18})-(\d{1,18})?|bytes=-(\d{1,18})")


class Links:
    """URLs with which anybody may read one file for a day."""

    def __init__(self, signer: Signer, *, clock: Callable[[], float] = time.time) -> None:
        self._signer = signer
        self._clock = clock

    async def to(self, file: File, origin: str) -> str:
        """`origin` is the server as the client reaches it."""
        expires = str(int(self._clock()) + VALID_S)
        signature = await self._signer.sign(PURPOSE, file.id, file.owner, expires)
        query = {"Expires": expires, "Owner": file.owner, "Signature": base64.urlsafe_b64encode(signature).decode()}
        return f"{origin.rstrip('/')}{PATH}/{quote(file.id)}?{urlencode(query)}"

    async def owner(self, file_id: str, query: Mapping[str, str]) -> str:
        """Whose file the link leads to. Raises `Refusal` for one that is not as it was signed, or has expired."""
        expires, owner = query.get("Expires", ""), query.get("Owner", "")
        try:
            signature = base64.urlsafe_b64decode(query.get("Signature", ""))
        except ValueError:
            raise wrong_signature() from None
        if not await self._signer.valid(signature, PURPOSE, file_id, owner, expires):
            raise wrong_signature()
        if int(expires) <= self._clock():
            raise Refusal(403, "AccessDenied", "Request has expired.")
        return owner


def routes(files: Files, links: Links) -> list[Route]:
    download = Endpoint(refusing(Download(files, links)), None, OSS, methods=("GET", "HEAD"))
    return [Route(f"{PATH}/{{file}}", download)]


class Download:
    """What a link leads to: the bytes of a file, or one range of them."""

    def __init__(self, files: Files, links: Links) -> None:
        self._files = files
        self._links = links

    async def __call__(self, call: Call) -> None:
        exchange, file_id = call.exchange, call.exchange.path_params["file"]
        owner = await self._links.owner(file_id, exchange.query)
        try:
            file = await self._files.get(file_id, owner)
        except FileMissing:
            raise Refusal(404, "NoSuchKey", "The specified key does not exist.") from None
        wanted = _wanted(exchange.header("range"), file.size)
        start, end = wanted or (0, file.size)
        headers = {
            "content-length": str(end - start),
            "content-disposition": f"attachment; filename*=UTF-8''{quote(file.name)}",
            "accept-ranges": "bytes",
            "x-content-type-options": "nosniff",
        }
        if wanted:
            headers["content-range"] = f"bytes {start}-{end - 1}/{file.size}"
        async with exchange.until_gone(), aclosing(self._files.read(file, start, end)) as pieces:
            await exchange.download(206 if wanted else 200, pieces, headers, content_type=b"application/octet-stream")


def _wanted(header: str, size: int) -> tuple[int, int] | None:
    """First byte and the one after the last of the range that is asked for; None for the whole, which also answers
    what is no single range. Raises `Refusal` for a range that begins after the end."""
    match = RANGE.fullmatch(header.strip())
    if match is None:
        return None
    first, last, suffix = match.groups()
    start = max(0, size - int(suffix)) if suffix else int(first)
    end = min(size, int(last) + 1) if last else size
    if start >= end:
        raise Refusal(416, "InvalidRange", f"The requested range cannot be satisfied. The object has {size} bytes.")
    return start, end
