"""Traces by OTLP over HTTP, set by the names of OpenTelemetry (`OTEL_EXPORTER_OTLP_ENDPOINT` and so on).

Nothing of it is imported unless those ask for traces. Spans are made of a request's timeline once it has ended.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from serving.endpoint import Call
from serving.generation import Timeline
from serving.settings import SettingsError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
HTTP = "http/protobuf"


def tracing_of(environment: Mapping[str, str] = os.environ) -> Tracing | None:
    """None where no traces are asked for. Raises `SettingsError`."""
    if not _wanted(environment):
        return None
    protocol = next((environment[name] for name in PROTOCOLS if environment.get(name)), HTTP)
    if protocol != HTTP:
        raise SettingsError(f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol}: traces are sent as {HTTP} only")
    try:
        return Tracing(_provider(environment))
    except ImportError as error:
        raise SettingsError(f"traces need {error.name}: pip install 'homescope[serving,traces]'") from None


def _wanted(environment: Mapping[str, str]) -> bool:
    exporter = environment.get("OTEL_TRACES_EXPORTER") or None
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or exporter not in (None, "otlp"):
        return False
    return exporter is not None or any(environment.get(name) for name in ENDPOINTS)


def _provider(environment: Mapping[str, str]) -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = environment.get("OTEL_SERVICE_NAME") or "service.name=" in environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
    resource = Resource.create(None if named else {"service.name": "homescope"})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


class Tracing:
    """Tells a collector of requests that have ended. Never what was asked or answered."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._trace = trace
        self._provider = provider
        self._tracer = provider.get_tracer("homescope")
        self._propagator = TraceContextTextMapPropagator()

    def observe(self, call: Call) -> None:
        trace, times = self._trace, call.timeline
        carrier = {name: call.exchange.header(name) for name in ("traceparent", "tracestate")}
        shift = time.time() - time.monotonic()
        root = self._tracer.start_span(
            f"chat {call.model}" if call.model != "-" else call.exchange.method,
            context=self._propagator.extract({name: value for name, value in carrier.items() if value}),
            kind=trace.SpanKind.SERVER,
            start_time=_epoch_ns(times.received, shift),
        )
        if root.is_recording():
            root.set_attributes(dict(_attributes(call)))
            if call.exchange.status >= 500:
                root.set_status(trace.StatusCode.ERROR)
            within = trace.set_span_in_context(root)
            for name, start, end in stages(times):
                span = self._tracer.start_span(name, context=within, start_time=_epoch_ns(start, shift))
                span.end(_epoch_ns(end, shift))
        root.end(None if times.ended is None else _epoch_ns(times.ended, shift))

    async def aclose(self) -> None:
        """Sends what has not been sent yet."""
        await asyncio.to_thread(self._provider.shutdown)


def stages(times: Timeline) -> Iterator[tuple[str, float, float]]:
    """Name, begin and end of what a request went through."""
    if times.queued is not None and times.admitted is not None:
        yield "queue", times.queued, times.admitted
    if times.first_chunk is not None:
        if times.admitted is not None:
            yield "first token", times.admitted, times.first_chunk
        if times.ended is not None:
            yield "answer", times.first_chunk, times.ended


def _attributes(call: Call) -> Iterator[tuple[str, str | int | float]]:
    """By the semantic conventions of OpenTelemetry where there are some."""
    times = call.timeline
    yield "http.request.method", call.exchange.method
    yield "http.response.status_code", call.exchange.status
    yield "homescope.request_id", call.exchange.request_id
    yield "homescope.outcome", call.outcome
    if call.exchange.status >= 400:
        yield "error.type", call.outcome
    if call.model != "-":
        yield "gen_ai.operation.name", "chat"
        yield "gen_ai.request.model", call.model
        yield "gen_ai.usage.input_tokens", call.answer.usage.input_tokens
        yield "gen_ai.usage.output_tokens", call.answer.usage.output_tokens
        yield "homescope.images", call.images
    if times.cached is not None:
        yield "homescope.cache", times.cached
    for name, seconds in (("fetch", times.fetching), ("decode", times.decoding)):
        if seconds is not None:
            yield f"homescope.{name}_seconds", seconds


def _epoch_ns(moment: float, shift: float) -> int:
    return int((moment + shift) * 1e9)
