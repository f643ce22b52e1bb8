"""The OpenAPI document is what the server does, and no request made of it breaks the server."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.routing import Mount, Route, Router

from serving.app import create_app
from serving.settings import Settings
from tests.conformance.material import Material
from tests.conformance.scripted import Scripted
from tests.conformance.target import MODEL, Local, local
from tests.serving.conftest import PATH

ROOT = Path(__file__).parents[2]
DOCUMENT = json.loads((ROOT / "serving" / "openapi.json").read_text(encoding="utf-8"))
METHODS = ("get", "post", "delete")
ALIASED = "/v1"
"""Prefix whose routes are those of `/compatible-mode/v1`, and not described twice."""

document = schemathesis.openapi.from_dict(DOCUMENT)
document.config.generation.update(modes=list(schemathesis.GenerationMode))
drawn = settings(
    max_examples=3,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, ring3: None) -> Any:
    folder = tmp_path_factory.mktemp("openapi")
    switched_on = Settings(data=folder / "data", async_tasks=True, cache="off")
    app = local(folder, Scripted(), Material.drawn(MODEL), switched_on)
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(app) as running:
        yield running


def right_form(response: Any, path: str) -> None:
    """Never a failure of the server's own; every refusal in its protocol's form, with the id in body and header."""
    assert response.status_code < 500, response.text
    if path in ("/livez", "/readyz", "/openapi.json"):
        return
    request_id = response.headers["x-request-id"]
    request_id = request_id[0] if isinstance(request_id, list) else request_id
    if response.status_code >= 400 and path != "/oss":
        body = json.loads(response.content)
        assert body["request_id"] == request_id
        if path.startswith("/compatible-mode"):
            assert body["error"]["message"]
        else:
            assert list(body) == ["code", "message", "request_id"]


@pytest.mark.timeout(300)
@document.parametrize()
@drawn
def test_no_request_of_the_document_breaks_the_server(case: Any, target: Local) -> None:
    response = case.call(base_url=target.asks.origin, headers={"Authorization": f"Bearer {target.asks.key}"})
    right_form(response, case.operation.path)


ANY_ROUTE = st.sampled_from(
    [(method, path) for path, item in DOCUMENT["paths"].items() for method in METHODS if method in item]
)
JSONISH = st.one_of(
    st.binary(max_size=300),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(
                    ["model", "input", "messages", "parameters", "role", "content", "text", "image", "video"]
                )
                | st.text(max_size=8),
                inner,
                max_size=5,
            )
        ),
        max_leaves=12,
    ).map(lambda value: json.dumps(value).encode()),
)


@pytest.mark.timeout(300)
@given(
    route=ANY_ROUTE, body=JSONISH, content_type=st.sampled_from(["application/json", "multipart/form-data", "x", ""])
)
@settings(max_examples=30, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_bytes_break_a_route(target: Local, route: tuple[str, str], body: bytes, content_type: str) -> None:
    method, path = route
    url = target.asks.origin + path.replace("{", "").replace("}", "")
    headers = {"authorization": f"Bearer {target.asks.key}", "content-type": content_type}
    with httpx.Client(timeout=10) as client:
        right_form(client.request(method.upper(), url, content=body, headers=headers), path)


HOSTILE = [
    b"",
    b"null",
    b"[]",
    b'{"model":"qwen3-vl-30b","input":{"messages":[]}}',
    b'{"model":NaN}',
    b'{"model":"\xff\xfe"}',
    b'{"model":"\\ud800","input":{"messages":[{"role":"user","content":"x"}]}}',
    b'{"model":"a","model":"b","input":{}}',
    b"[" * 100_000,
    b'{"model":"qwen3-vl-30b","input":{"messages":[{"role":"user","content":[' + b"{}," * 50_000 + b"{}]}]}}",
    b'{"model":"qwen3-vl-30b","input":{"messages":[{"role":"wizard","content":"x"}]}}',
    b'{"model":"qwen3-vl-30b","input":{"messages":[{"role":"user","content":"x"}]},"parameters":{"seed":1e400}}',
    b'{"model":"qwen3-vl-30b","input":{"messages":[{"role":"user","content":[{"image":"data:image/png;base64,"}]}]}}',
]


@pytest.mark.parametrize("body", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("path", [PATH, "/compatible-mode/v1/chat/completions", "/api/v1/tokenizer"])
def test_hostile_bodies_are_refused(target: Local, path: str, body: bytes) -> None:
    headers = {"authorization": f"Bearer {target.asks.key}"}
    response = httpx.post(target.asks.origin + path, content=body, headers=headers, timeout=10)
    right_form(response, path)
    assert response.status_code >= 400 or path == "/api/v1/tokenizer"  # which reads the texts and nothing else


def test_the_document_describes_every_route_and_no_other(target: Local, tmp_path: Path) -> None:
    app = create_app(Settings(data=tmp_path), Scripted())
    served = {plain(path) for path in paths(app) if not path.startswith(ALIASED + "/")}
    described = {plain(path) for path in DOCUMENT["paths"]}
    assert described <= served
    assert {path for path in served - described if not path.endswith("/")} <= UNDESCRIBED


UNDESCRIBED = {"/api/v1/models/{}", "/downloads/{}", "/metrics"}
"""Another spelling of what is described, links that the server itself hands out, and what is for the operator."""


def paths(router: Router | Mount, prefix: str = "") -> list[str]:
    found = []
    for route in router.routes:
        if isinstance(route, Route):
            found.append(prefix + route.path)
        elif isinstance(route, Mount):
            found += paths(route, prefix + route.path)
    return found


def plain(path: str) -> str:
    """Without the names of what varies."""
    pieces = path.split("/")
    return "/".join("{}" if piece.startswith("{") else piece for piece in pieces)


def test_it_is_served(target: Local) -> None:
    response = httpx.get(target.asks.origin + "/openapi.json")
    assert response.json() == DOCUMENT
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert DOCUMENT["info"]["version"] == project["version"]
