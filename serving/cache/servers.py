from __future__ import annotations

from urllib.parse import urlsplit

from serving.cache.store import Memory, Optional, Store
from serving.settings import Settings, SettingsError


def store_of(settings: Settings) -> Store | None:
    """The store that the settings name; None where answers are not to be kept."""
    kind, _, _ = settings.cache.partition("://")
    if kind not in ("off", "memory"):
        return Optional(_remote(settings))
    return None if kind == "off" else Memory(settings.cache_bytes, settings.cache_seconds)


def _remote(settings: Settings) -> Store:
    try:
        from serving.cache.remote import Memcached, Redis
    except ImportError as error:
        raise SettingsError(f"HOMESCOPE_CACHE needs {error.name}: pip install 'homescope[serving,scale]'") from None
    parts = urlsplit(settings.cache)
    if parts.scheme == "memcached":
        return Memcached(parts.hostname or "127.0.0.1", parts.port or 11211, settings.cache_seconds)
    return Redis(settings.cache, settings.cache_seconds)
