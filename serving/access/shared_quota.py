"""The counters that several gateway processes share in Redis, and what happens while it is away."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import redis.asyncio as redis
from redis.exceptions import RedisError

from serving.access.quota import SLICE_S, WINDOW_S, Charge, Exhausted, Ledger, LedgerAway, Receipt, correction

log = logging.getLogger(__name__)

PREFIX = "homescope:{quota}"
"""In braces, so that a cluster keeps all counters in one place, where one script can see them together."""
CONNECTIONS = 8
"""Enough for some ten thousand requests a second; more would be opened all at once by a burst, and take longer."""
ANSWER_WITHIN = 1.0
"""Seconds. A Redis that takes longer is as good as away: the requests wait for it."""
AWAY_FOR = 1.0
"""Seconds until a Redis that was away is asked again."""

# Both count by the clock of Redis, unless they are given the time: clocks of several machines differ.
NOW = f"""
local now = tonumber(ARGV[1])
if now < 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local window, slice = {WINDOW_S * 1000}, {SLICE_S * 1000}
local current = math.floor(now / slice)
"""

CHARGE = (
    NOW
    + """
local id, lease = ARGV[2], tonumber(ARGV[3])
for i, key in ipairs(KEYS) do
  local limit, amount = tonumber(ARGV[2 * i + 2]), tonumber(ARGV[2 * i + 3])
  if string.find(key, ':concurrency:', 1, true) then
    redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
    if redis.call('ZCARD', key) + amount > limit then return {0, i, -1} end
  else
    local used, slices, total = redis.call('HGETALL', key), {}, 0
    for at = 1, #used, 2 do
      local number = tonumber(used[at])
      if number <= current - window / slice - 1 then
        redis.call('HDEL', key, used[at])
      else
        slices[#slices + 1] = {number, tonumber(used[at + 1])}
        total = total + tonumber(used[at + 1])
      end
    end
    if amount > 0 and total + amount > limit then
      table.sort(slices, function(a, b) return a[1] < b[1] end)
      for _, each in ipairs(slices) do
        total = total - each[2]
        if total + amount <= limit then return {0, i, (each[1] + 1) * slice + window - now} end
      end
      return {0, i, -1}
    end
  end
end
for i, key in ipairs(KEYS) do
  if string.find(key, ':concurrency:', 1, true) then
    redis.call('ZADD', key, now + lease, id)
    redis.call('PEXPIRE', key, lease)
  else
    redis.call('HINCRBY', key, current, ARGV[2 * i + 3])
    redis.call('PEXPIRE', key, window + 2 * slice)
  end
end
return {1, current}
"""
)

SETTLE = (
    NOW
    + """
local id, charged = ARGV[2], ARGV[3]
for i, key in ipairs(KEYS) do
  local more = tonumber(ARGV[i + 3])
  if string.find(key, ':concurrency:', 1, true) then
    redis.call('ZREM', key, id)
  elseif more > 0 then
    redis.call('HINCRBY', key, current, more)
    redis.call('PEXPIRE', key, window + 2 * slice)
  elseif more < 0 then
    local left = tonumber(redis.call('HGET', key, charged) or 0)
    if left > 0 then redis.call('HINCRBY', key, charged, -math.min(left, -more)) end
  end
end
"""
)


class RedisLedger:
    """One round trip per request to charge, and one to settle, which nobody waits for.

    A place among the requests at a time is a lease of `lease` seconds: that of a process that died comes back then.
    """

    def __init__(self, url: str, *, lease: float, clock: Callable[[], float] | None = None) -> None:
        """`clock` tells seconds since the epoch; None leaves that to Redis."""
        pool = redis.BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS,
            timeout=ANSWER_WITHIN,
            socket_timeout=ANSWER_WITHIN,
            socket_connect_timeout=ANSWER_WITHIN,
        )
        self._redis = redis.Redis.from_pool(pool)
        self._charge = self._redis.register_script(CHARGE)
        self._settle = self._redis.register_script(SETTLE)
        self._lease_ms = int(lease * 1000)
        self._clock = clock
        self._settling: set[asyncio.Task[None]] = set()

    async def charge(self, request_id: str, charges: Sequence[Charge]) -> Receipt:
        bounds = [number for charge in charges for number in (charge.limit, charge.amount)]
        answer = await self._run(self._charge, charges, [self._now(), request_id, self._lease_ms, *bounds])
        if answer[0]:
            return Receipt(request_id, tuple(charges), answer[1], self)
        raise Exhausted(charges[answer[1] - 1], None if answer[2] < 0 else answer[2] / 1000)

    def settle(self, receipt: Receipt, tokens: int | None) -> None:
        task = asyncio.create_task(self._settled(receipt, tokens))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def aclose(self) -> None:
        if self._settling:
            await asyncio.wait(self._settling, timeout=ANSWER_WITHIN)
        await self._redis.aclose()

    async def _settled(self, receipt: Receipt, tokens: int | None) -> None:
        more = [0 if charge.resource == "requests" else correction(charge, tokens) for charge in receipt.charges]
        try:
            await self._run(self._settle, receipt.charges, [self._now(), receipt.id, receipt.slice, *more])
        except LedgerAway as away:
            log.warning("what a request used stays an estimate: %s", away)

    async def _run(self, script: Any, charges: Sequence[Charge], arguments: list[object]) -> Any:
        keys = [f"{PREFIX}:{charge.resource}:{charge.holder}" for charge in charges]
        try:
            return await script(keys=keys, args=arguments)
        except (RedisError, OSError) as error:
            raise LedgerAway(f"Redis is away: {type(error).__name__}") from error

    def _now(self) -> int:
        return -1 if self._clock is None else int(self._clock() * 1000)


class Degrading:
    """The shared ledger, or this process's own counters while it is away: then each process lets in up to the limits
    by itself. `refuse` raises `LedgerAway` instead."""

    def __init__(
        self, shared: Ledger, local: Ledger, *, refuse: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._shared = shared
        self._local = local
        self._refuse = refuse
        self._clock = clock
        self._away_until = float("-inf")
        self._away = False

    async def charge(self, request_id: str, charges: Sequence[Charge]) -> Receipt:
        if self._clock() >= self._away_until:
            try:
                receipt = await self._shared.charge(request_id, charges)
            except LedgerAway as error:
                self._leave(error)
            else:
                self._come_back()
                return receipt
        if self._refuse:
            raise LedgerAway("the shared limits cannot be asked")
        return await self._local.charge(request_id, charges)

    def settle(self, receipt: Receipt, tokens: int | None) -> None:
        receipt.ledger.settle(receipt, tokens)

    async def aclose(self) -> None:
        await self._shared.aclose()

    def _leave(self, error: LedgerAway) -> None:
        self._away_until = self._clock() + AWAY_FOR
        if not self._away:
            then = "requests are refused" if self._refuse else "each process counts for itself"
            log.error("limits: %s; until it is back, %s", error, then)
        self._away = True

    def _come_back(self) -> None:
        if self._away:
            log.warning("limits: Redis is back")
        self._away = False
