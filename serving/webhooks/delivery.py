from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Literal, TypeAlias

import aiohttp
import orjson
from aiohttp.abc import AbstractResolver
from yarl import URL

from serving.errors import InvalidRequest, ServingError
from serving.jobs.job import Failure, Job
from serving.media.addresses import Guard
from serving.media.fetch import Checked
from serving.media.lookups import HOLDER, Lookups
from serving.webhooks import signing
from serving.webhooks.secrets import SecretStore

log = logging.getLogger(__name__)

BACK_OFF = (5.0, 30.0, 300.0, 1_800.0, 7_200.0, 18_000.0, 36_000.0, 50_400.0)
"""Seconds between attempts: a receiver may be away for a day and a half."""
KEEP_MS = 7 * 86_400_000
"""What was delivered, and what could not be, is shown and can be sent again for a week."""
USER_AGENT = "homescope-webhooks"

Outcome: TypeAlias = Literal["delivered", "failed", "gone"]


class Undelivered(ServingError):
    """Raised when a receiver did not take a notice: it will be sent again."""

    status = 502
    code = "Webhook.Undelivered"
    retryable = True


class Gone(ServingError):
    """Raised when a receiver says 410, or may not be called: it is not called again."""

    status = 410
    code = "Webhook.Gone"


class Deliveries:
    """Sends notices to the URLs that asked for them. Each goes out at least once, under an id that stays."""

    keep_ms = KEEP_MS

    def __init__(
        self,
        secrets: SecretStore,
        guard: Guard,
        *,
        timeout: float,
        resolver: AbstractResolver | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`timeout` in seconds, of one attempt; what the `guard` does not let through is not connected to."""
        self.counts: Counter[Outcome] = Counter()
        self._secrets = secrets
        self._guard = guard
        self._timeout = timeout
        self._resolver = resolver
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None

    async def run(self, job: Job) -> bytes:
        """Raises `Undelivered` and `Gone`."""
        HOLDER.set(job.details["owner"])
        url, body = job.details["url"], orjson.dumps(job.details["body"])
        secrets = await self._secrets.of(job.details["owner"])
        headers = signing.headers(job.id, int(self._clock()), body, secrets.all)
        try:
            status = await self._post(url, body, headers)
        except ServingError as error:
            raise self._told(job, error) from None
        if 200 <= status < 300:
            self.counts["delivered"] += 1
            return b""
        answer = f"the receiver answered {status}"
        raise self._told(job, Gone(answer) if status == 410 else Undelivered(answer))

    def failure(self, error: ServingError) -> Failure:
        return Failure.of(error)

    async def group_ended(self, group: str) -> None:
        """Notices are in no group."""

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _told(self, job: Job, error: ServingError) -> ServingError:
        self.counts["gone" if isinstance(error, Gone) else "failed"] += 1
        host = URL(job.details["url"]).host
        log.warning("webhook %s, attempt %d, to %s: %s", job.id, job.attempts, host, error.message)
        return error

    async def _post(self, url: str, body: bytes, headers: dict[str, str]) -> int:
        """The status. Redirects are none of the ways to take a notice: they are not followed."""
        try:
            checked = self._guard.url(url)
            async with (
                asyncio.timeout(self._timeout),
                self._http().post(checked, data=body, headers=headers, allow_redirects=False) as response,
            ):
                return response.status
        except InvalidRequest as refused:  # by the guard: what its name leads to now is not what may be called
            raise Gone(refused.message) from None
        except TimeoutError:
            raise Undelivered(f"no answer within {self._timeout:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Undelivered(f"cannot be reached: {type(error).__name__}") from None

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            resolver = Checked(self._resolver or Lookups(), self._guard)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(resolver=resolver, use_dns_cache=False, force_close=True),
                headers={"user-agent": USER_AGENT, "content-type": "application/json"},
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),
            )
        return self._session
