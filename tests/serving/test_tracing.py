from __future__ import annotations

import time

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serving.app import create_app
from serving.settings import Settings, SettingsError
from serving.tracing import tracing_of
from tests.fakes import FakeEngine
from tests.serving.conftest import PATH, listening
from tests.serving.wire import chat, user

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SECRET = "nobody shall read this in a trace"


class Collector:
    """The receiving side of OTLP over HTTP."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        self.app = Starlette(routes=[Route("/v1/traces", self._take, methods=["POST"])])

    async def _take(self, request: Request) -> Response:
        self.requests.append(ExportTraceServiceRequest.FromString(await request.body()))
        return Response(status_code=200, media_type="application/x-protobuf")

    @property
    def spans(self) -> dict[str, Span]:
        return {
            span.name: span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        }


@pytest.mark.ring3
async def test_a_request_becomes_spans_of_the_callers_trace(
    settings: Settings, engine: FakeEngine, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector = Collector()
    headers = {"authorization": f"Bearer {key}", "traceparent": f"00-{TRACE}-{PARENT}-01"}
    engine.enqueue("a", SECRET)
    async with listening(collector.app) as traces:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", traces)
        async with listening(create_app(settings, engine)) as url, httpx.AsyncClient(headers=headers) as client:
            answer = await client.post(url + PATH, json=chat(user(SECRET)))
            assert answer.status_code == 200
    root = collector.spans["chat qwen3-vl-30b"]
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE, PARENT)
    assert root.kind == Span.SPAN_KIND_SERVER
    told = {each.key: each.value for each in root.attributes}
    assert told["http.response.status_code"].int_value == 200
    assert told["gen_ai.usage.output_tokens"].int_value == 2
    assert told["homescope.request_id"].string_value == answer.headers["x-request-id"]
    for name in ("queue", "first token", "answer"):
        span = collector.spans[name]
        assert span.parent_span_id == root.span_id
        assert root.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
    assert all(SECRET.encode() not in each.SerializeToString() for each in collector.requests)
    named = {each.key: each.value.string_value for each in collector.requests[0].resource_spans[0].resource.attributes}
    assert named["service.name"] == "homescope"


@pytest.mark.ring3
async def test_a_collector_that_is_away_holds_up_nothing(
    settings: Settings, engine: FakeEngine, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")  # of its ten seconds, after which it gives up
    headers = {"authorization": f"Bearer {key}"}
    async with listening(create_app(settings, engine)) as url, httpx.AsyncClient(headers=headers) as client:
        assert (await client.post(url + PATH, json=chat())).status_code == 200
        began = time.monotonic()
    assert time.monotonic() - began < 9


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_no_traces_unless_asked_for(environment: dict[str, str]) -> None:
    assert tracing_of(environment) is None


def test_a_protocol_that_is_not_spoken() -> None:
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    with pytest.raises(SettingsError, match="grpc"):
        tracing_of(environment)
