from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, get_args

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.routing import BaseRoute, Router
from starlette.types import Receive, Scope, Send

from serving.endpoint import OBSERVE, Call
from serving.engine import work
from serving.engine.base import Engine
from serving.engine.pool import Pool
from serving.errors import StorageUnavailable
from serving.generation import Priority, Timeline, Usage
from serving.intake import INTAKE, Intake
from serving.jobs.queue import Backlog
from serving.layers.admitted import Admitted
from serving.layers.cached import Cached
from serving.layers.gate import REASONS
from serving.layers.layer import within
from serving.layers.limited import Limited
from serving.settings import PRICE, Settings

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300)
MILLION = 1_000_000
BACKLOG_WITHIN = 2.0
"""Seconds; Prometheus waits for ten."""


@dataclass(frozen=True, slots=True)
class Price:
    """Of a million tokens, in whichever currency the table of prices is."""

    input: float
    output: float

    def of(self, usage: Usage) -> float:
        return (usage.input_tokens * self.input + usage.output_tokens * self.output) / MILLION


class Metrics:
    """What Prometheus is told. Requests are counted as they end; the state of the layers is read when it asks."""

    def __init__(
        self,
        engine: Engine,
        models: Iterable[str],
        prices: Mapping[str, Price],
        backlog: Callable[[], Awaitable[Backlog]],
        notices: Mapping[Any, int] | None = None,
    ) -> None:
        """`models` are the names that may become labels; clients could make up any number of others. `backlog` is asked
        of the queue for each scrape; `notices` are attempts at webhooks, by what became of them."""
        self._backlog = backlog
        self._models = frozenset(models)
        self._prices = prices
        self._registry = CollectorRegistry()
        self._state = _State(engine, notices or {})
        self._registry.register(self._state)
        labels = ("model", "outcome")
        self._requests = Counter("homescope_requests", "Requests that have ended", labels, registry=self._registry)
        self._errors = Counter(
            "homescope_errors", "Requests that were refused or failed", ("code", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "homescope_stage_seconds",
            "Time that a stage of a request took",
            ("stage",),
            buckets=SECONDS,
            registry=self._registry,
        )
        self._tokens = Counter(
            "homescope_tokens", "Tokens, by what they are", ("model", "kind"), registry=self._registry
        )
        self._images = Counter("homescope_images", "Images in requests", ("model",), registry=self._registry)
        self._cost = Counter(
            "homescope_cost", "What the tokens cost by the table of prices", ("model",), registry=self._registry
        )
        self._stages = {stage: self._seconds.labels(stage) for stage in STAGES}

    def observe(self, call: Call) -> None:
        model = call.model if call.model in self._models else "other"
        self._requests.labels(model, call.outcome).inc()
        if call.exchange.status >= 400 or call.outcome not in ("ok", "partial", "client_gone"):
            self._errors.labels(call.outcome, str(call.exchange.status)).inc()
        if model == "other":
            return
        for stage, seconds in spans(call.timeline):
            self._stages[stage].observe(seconds)
        if call.images:
            self._images.labels(model).inc(call.images)
        self._count(model, call.answer.usage, cached=call.timeline.cached == "hit")

    async def text(self) -> bytes:
        """In the exposition format of Prometheus."""
        self._state.backlog = await self._asked()
        return generate_latest(self._registry)

    async def _asked(self) -> Backlog | None:
        """None while the database is away: no number is better than an old one."""
        try:
            async with asyncio.timeout(BACKLOG_WITHIN):
                return await self._backlog()
        except (StorageUnavailable, TimeoutError):
            return None

    def _count(self, model: str, usage: Usage, *, cached: bool) -> None:
        if cached:
            return  # the engine did nothing for them
        kinds = {"input": usage.input_tokens, "output": usage.output_tokens, "image": usage.image_tokens or 0}
        for kind, number in kinds.items():
            if number:
                self._tokens.labels(model, kind).inc(number)
        if price := self._prices.get(model):
            self._cost.labels(model).inc(price.of(usage))


STAGES = ("fetch", "decode", "queue", "first_token", "first_chunk", "total")


def spans(times: Timeline) -> Iterator[tuple[str, float]]:
    """Stages that have taken place, in seconds: `first_token` since admission, `first_chunk` and `total` since the
    request came."""
    if times.fetching is not None:
        yield "fetch", times.fetching
    if times.decoding is not None:
        yield "decode", times.decoding
    if times.queued is not None and times.admitted is not None:
        yield "queue", times.admitted - times.queued
    if times.first_chunk is not None:
        yield "first_chunk", times.first_chunk - times.received
        if times.admitted is not None:
            yield "first_token", times.first_chunk - times.admitted
    if times.ended is not None:
        yield "total", times.ended - times.received


class _State(Collector):
    """The layers as they are now."""

    def __init__(self, engine: Engine, notices: Mapping[Any, int]) -> None:
        self._engine = engine
        self._notices = notices
        self.backlog: Backlog | None = None

    def collect(self) -> Iterator[Metric]:
        for layer in within(self._engine):
            if isinstance(layer, Admitted):
                yield from _admission(layer)
            elif isinstance(layer, Cached):
                yield _arms(layer)
            elif isinstance(layer, Pool):
                yield from _replicas(layer)
            elif isinstance(layer, Limited):
                yield _refusals(layer)
        yield _attempts(self._notices)
        if self.backlog is not None:
            yield from _background(self.backlog)


def _admission(layer: Admitted) -> Iterator[Metric]:
    gate = layer.gate
    yield GaugeMetricFamily("homescope_in_flight", "Generations that the engine has", gate.in_flight)
    yield GaugeMetricFamily("homescope_in_flight_limit", "How many it may have", gate.max_in_flight)
    yield GaugeMetricFamily("homescope_pixels_in_flight", "Pixels in them, as the model sees them", gate.pixels)
    yield GaugeMetricFamily("homescope_pixels_in_flight_limit", "How many there may be", gate.max_pixels)
    tokens = gate.pixels // work.PIXELS_PER_TOKEN
    yield GaugeMetricFamily("homescope_image_tokens_in_flight", "Tokens that these pixels are", tokens)
    queued = GaugeMetricFamily("homescope_queued", "Generations that wait for a place", labels=("priority",))
    queued.add_metric(("interactive",), gate.waiting("interactive"))
    queued.add_metric(("background",), gate.waiting("background"))
    yield queued
    yield GaugeMetricFamily("homescope_queued_limit", "How many may wait", gate.max_queued)
    yield GaugeMetricFamily(
        "homescope_queue_expected_seconds",
        "How long an interactive one behind all others would wait; none before places have come free",
        gate.longest_wait,
    )
    refused = CounterMetricFamily(
        "homescope_queue_refusals",
        "Generations that got no place, because as many wait as may, they would have waited for too long, they have",
        labels=("reason", "priority"),
    )
    for reason, priority in product(REASONS, get_args(Priority)):
        refused.add_metric((reason, priority), gate.refused[reason, priority])
    yield refused


def _arms(layer: Cached) -> Metric:
    arms = CounterMetricFamily("homescope_cache", "What the answer cache had to say", labels=("arm",))
    for arm, count in layer.counts.items():
        arms.add_metric((arm,), count)
    return arms


def _refusals(layer: Limited) -> Metric:
    refused = CounterMetricFamily(
        "homescope_limit_refusals", "Requests beyond a limit, of their key or of the server", labels=("resource", "of")
    )
    for (resource, of), count in layer.refused.items():
        refused.add_metric((resource, of), count)
    return refused


def _background(backlog: Backlog) -> Iterator[Metric]:
    jobs = GaugeMetricFamily("homescope_jobs", "Tasks and lines of batches", labels=("state",))
    jobs.add_metric(("waiting",), backlog.waiting)
    jobs.add_metric(("running",), backlog.running)
    yield jobs
    yield GaugeMetricFamily("homescope_jobs_oldest_seconds", "Age of the one that waits longest", backlog.oldest)
    yield GaugeMetricFamily("homescope_webhooks_waiting", "Webhooks to deliver, retries included", backlog.notices)


def _attempts(notices: Mapping[Any, int]) -> Metric:
    attempts = CounterMetricFamily("homescope_webhooks", "Attempts to deliver webhooks", labels=("outcome",))
    for outcome in ("delivered", "failed", "gone"):
        attempts.add_metric((outcome,), notices.get(outcome, 0))
    return attempts


def _replicas(pool: Pool) -> Iterator[Metric]:
    ready = GaugeMetricFamily("homescope_replica_ready", "Whether it can be given requests", labels=("replica",))
    running = GaugeMetricFamily("homescope_replica_in_flight", "Generations that it has", labels=("replica",))
    served = CounterMetricFamily("homescope_replica_requests", "Generations it was given", labels=("replica",))
    for replica in pool.replicas:
        ready.add_metric((replica.url,), replica.ready and replica.usable)
        running.add_metric((replica.url,), replica.outstanding)
        served.add_metric((replica.url,), replica.served)
    yield ready
    yield running
    yield served


def prices_of(settings: Settings) -> dict[str, Price]:
    found = [PRICE.fullmatch(entry) for entry in settings.prices]
    return {each["model"]: Price(float(each["input"]), float(each["output"])) for each in found if each}


class Observed(Router):
    """A router whose endpoints tell of each call that has ended, and share the `intake`."""

    def __init__(
        self, observe: Callable[[Call], None], routes: list[BaseRoute], *, intake: Intake, **options: Any
    ) -> None:
        super().__init__(routes, **options)
        self._observe = observe
        self.intake = intake

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[OBSERVE] = self._observe
        scope[INTAKE] = self.intake
        await super().__call__(scope, receive, send)
