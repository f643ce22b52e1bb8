from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec


class Picture(msgspec.Struct, frozen=True):
    """An image of a request: the SHA-256 of its bytes in hex, and the name of the stored original, if there is one."""

    digest: str
    format: str
    width: int
    height: int
    bytes: int
    object: str | None = None


class Record(msgspec.Struct, frozen=True):
    """One request to the model. Times in ms, `received_at` since the epoch; `outcome` is "ok", "abandoned" or an error
    code; `question` and `answer` are JSON, None where no content is kept."""

    id: str
    request_id: str
    received_at: int
    key_id: str
    key_name: str
    model: str
    priority: str
    streamed: bool
    outcome: str
    input_tokens: int
    output_tokens: int
    image_tokens: int | None
    cached_tokens: int | None
    images: int
    queued_ms: float | None
    first_chunk_ms: float | None
    total_ms: float
    question: str | None = None
    answer: str | None = None
    pictures: tuple[Picture, ...] = ()

    def row(self) -> dict[str, Any]:
        row = msgspec.structs.asdict(self)
        del row["pictures"]
        return row | {"day": day_of(self.received_at)}

    def picture_rows(self) -> list[dict[str, Any]]:
        key = {"record_id": self.id, "day": day_of(self.received_at)}
        return [key | {"number": at} | msgspec.structs.asdict(each) for at, each in enumerate(self.pictures)]


def day_of(epoch_ms: int) -> Any:
    """The UTC day."""
    return datetime.fromtimestamp(epoch_ms / 1000, UTC).date()
