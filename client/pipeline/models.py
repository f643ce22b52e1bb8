from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeAlias

from client.models import DEFAULT_MODEL, Job

State: TypeAlias = Literal["waiting", "queued", "running", "done", "failed", "dead"]
ENDED: tuple[State, ...] = ("done", "failed", "dead")


@dataclass(frozen=True, slots=True)
class Work:
    """One image of a document and what is asked about it: what travels through the broker, as JSON.

    Attributes:
        document: its name, as submitted.
        label: which part of it: `page 3`, or the name of the file.
        position: its place in the document, from 0.
        digest: SHA-256 of the image, hexadecimal; the image store knows it by that.
        kind: who answers; see `client.pipeline.kinds`.
        prompt, model, schema, parameters: as `client.Job`; of a `report` the prompt is the chart's caption.
        prepared: what is done to the image before it is sent, as `client.Job`.
    """

    document: str
    label: str
    position: int
    digest: str
    kind: str = "ask"
    prompt: str = ""
    model: str = DEFAULT_MODEL
    schema: Mapping[str, Any] | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    prepared: str = ""

    @property
    def job(self) -> Job:
        return Job(self.prompt, self.model, self.schema, self.parameters, prepared=self.prepared)

    @property
    def key(self) -> str:
        """Equal for equal questions about equal images, whatever document they are in: one answer serves them all."""
        own = self.job.key(self.digest)
        return own if self.kind == "ask" else hashlib.sha256(f"{self.kind}:{own}".encode()).hexdigest()

    @property
    def id(self) -> str:
        """The row: this question about this image at this place of this document."""
        place = json.dumps([self.document, self.label, self.position, self.key])
        return hashlib.sha256(place.encode()).hexdigest()

    def to_json(self) -> bytes:
        """What is published."""
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True).encode()

    @classmethod
    def from_json(cls, body: bytes) -> Work:
        """The item of a message.

        Raises:
            ValueError: the body is none; the text says why, without a word of it.
        """
        try:
            own = json.loads(body)
        except (ValueError, RecursionError):
            raise ValueError("not JSON") from None
        if not isinstance(own, dict):
            raise ValueError("not a JSON object")
        known = {each.name for each in fields(cls)}
        if unknown := sorted(set(own) - known):
            raise ValueError(f"unknown fields: {', '.join(unknown)[:200]}")
        for name, kind in _TYPES.items():
            if name in own and not isinstance(own[name], kind):
                raise ValueError(f"{name} has the wrong type")
        try:
            return cls(**own)
        except TypeError:
            raise ValueError("document, label, position or digest is missing") from None


_TYPES: dict[str, Any] = {
    "document": str, "label": str, "position": int, "digest": str, "kind": str, "prompt": str, "model": str,
    "schema": dict | None, "parameters": dict, "prepared": str,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Counts:
    """How many items of a document are in which state. Their sum is all of it."""

    document: str
    waiting: int = 0
    queued: int = 0
    running: int = 0
    done: int = 0
    failed: int = 0
    dead: int = 0

    @property
    def total(self) -> int:
        return self.waiting + self.queued + self.running + self.ended

    @property
    def ended(self) -> int:
        return self.done + self.failed + self.dead
