"""How the settings become a keyring and a ledger."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy.ext.asyncio import AsyncEngine

from serving.access.grant import Quota
from serving.access.keyring import Keyring, OpenDoor
from serving.access.keys import KeyStore
from serving.access.quota import Ledger, LocalLedger
from serving.settings import Settings

LEASE_BEYOND = 60.0
"""Seconds that a place is held beyond the longest request, for its body and what it waits for."""


def keyring_of(settings: Settings, database: AsyncEngine, clock: Callable[[], float]) -> Keyring:
    return Keyring(KeyStore(database), clock=clock) if settings.auth else OpenDoor()


def quota_of(settings: Settings) -> Quota:
    """What all keys together may use."""
    return Quota(settings.limit_rpm, settings.limit_tpm, settings.limit_ipm, settings.limit_concurrency)


def ledger_of(settings: Settings) -> Ledger:
    if settings.redis_url is None:
        return LocalLedger()
    from serving.access.shared_quota import Degrading, RedisLedger  # redis-py comes with the extra `scale`

    shared = RedisLedger(settings.redis_url.get_secret_value(), lease=settings.request_timeout + LEASE_BEYOND)
    return Degrading(shared, LocalLedger(), refuse=settings.limits_without_redis == "refuse")
