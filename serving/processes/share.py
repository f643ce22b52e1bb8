"""What each of several processes of one server is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from annotated_types import Ge
from pydantic import SecretStr

from serving.settings import PREFIX, Settings, SettingsError

DIVIDED = (
    "max_in_flight",
    "max_pixels_in_flight",
    "max_queued",
    "max_media_bytes",
    "max_bodies_bytes",
    "max_scratch_bytes",
    "max_connections",
    "decode_workers",
    "background_concurrency",
    "cache_bytes",
    "fetch_cache_bytes",
)
"""What the settings say of the server, of which each process has its part."""
TOGETHER = ("limit_rpm", "limit_tpm", "limit_ipm", "limit_concurrency")


def share(settings: Settings, processes: int) -> dict[str, int]:
    """The part of one of the processes, never less than the setting's least value, nor than one request may need."""
    # Of a budget one key has four fifths at most, and a video is taken room for piece by piece.
    needed = {"max_bodies_bytes": settings.max_body_bytes, "max_scratch_bytes": -(-settings.max_video_bytes * 5 // 4)}
    parts = {}
    for name in DIVIDED:
        value = getattr(settings, name)
        least = next((each.ge for each in Settings.model_fields[name].metadata if isinstance(each, Ge)), 0)
        parts[name] = min(value, max(int(str(least)), -(-value // processes), needed.get(name, 0)))
    return parts


def check(settings: Settings) -> list[str]:
    """What the operator should know. Raises `SettingsError` for what several processes cannot keep to."""
    if settings.redis_url is not None:
        return []
    given = [PREFIX + name.upper() for name in TOGETHER if getattr(settings, name) is not None]
    if given:
        raise SettingsError(
            f"several workers count {', '.join(given)} together in Redis alone: set HOMESCOPE_REDIS_URL, or run one"
        )
    words = ["the limits of keys are counted by each worker for itself; with HOMESCOPE_REDIS_URL together"]
    if settings.cache == "memory":
        words.append("each worker has an answer cache of its own; HOMESCOPE_CACHE=redis://... is one for all")
    return words


def environment(settings: Settings, inherited: Mapping[str, str]) -> dict[str, str]:
    """An environment that is read as these settings."""
    others = {name: value for name, value in inherited.items() if not name.upper().startswith(PREFIX)}
    written = {PREFIX + name.upper(): _written(getattr(settings, name)) for name in Settings.model_fields}
    return others | {name: value for name, value in written.items() if value}


def _written(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return str(value).lower() if isinstance(value, bool) else str(value)
