from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import pytest

from client import errors
from client.http import httpx_errors, tls
from client.models import Usage
from client.retry import ONCE, Policy
from client.session import Session
from tests.client import server as replies
from tests.client.conftest import png
from tests.client.server import Scripted

QUICK = Policy(base=0.001)


def session(server: Scripted, **options: Any) -> Session:
    return Session(server.url, "sk-test", **({"retry": QUICK} | options))


async def test_ask(server: Scripted, tmp_path: Path) -> None:
    path = tmp_path / "named-wrongly.png"
    path.write_bytes(png(1, kind="JPEG"))
    async with session(server) as s:
        answer = await s.ask(path, "读出数据", model="m", parameters={"temperature": 0})
    assert answer.text == f"seen {server.calls[0].digest[:8]}"
    assert answer.usage == Usage(100, 10, 110, 80)
    assert (answer.finish_reason, answer.model) == ("stop", "m")
    assert answer.request_id
    [call] = server.calls
    assert call.headers["authorization"] == "Bearer sk-test"
    assert "x-dashscope-sse" not in call.headers
    assert call.image == png(1, kind="JPEG")
    assert call.content[0]["image"].startswith("data:image/jpeg;base64,")
    assert call.content[1] == {"text": "读出数据"}
    assert (call.body["model"], call.body["parameters"]) == ("m", {"temperature": 0})


async def test_several_images_of_every_form_keep_their_order(server: Scripted, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    async with session(server) as s:
        await s.ask(["https://example.com/x.png", png(2), tmp_path / "a.png", "oss://bucket/key"], "compare")
    parts = server.calls[0].content
    assert [part.get("image", "")[:14] for part in parts] == [
        "https://exampl", "data:image/png", "data:image/png", "oss://bucket/k", "",
    ]  # fmt: skip
    assert server.calls[0].headers["x-dashscope-ossresourceresolve"] == "enable"


@pytest.mark.parametrize("stream", [False, True])
async def test_the_same_answer_streamed_or_not(server: Scripted, stream: bool) -> None:
    server.script = [replies.spoken("营收", "增长", " 8.2%") if stream else replies.answer("营收增长 8.2%")]
    async with session(server) as s:
        answer = await s.ask(png(), "?", stream=stream)
    assert (answer.text, answer.finish_reason, answer.usage) == ("营收增长 8.2%", "stop", Usage(100, 10, 110, 80))


async def test_stream(server: Scripted) -> None:
    server.script = [replies.spoken("a", "b")]
    async with session(server) as s:
        pieces = [piece async for piece in s.stream(png(), "?")]
    assert [(piece.text, piece.finish_reason) for piece in pieces] == [("a", None), ("b", None), ("", "stop")]
    [call] = server.calls
    assert call.headers["x-dashscope-sse"] == "enable"
    assert call.headers["accept"] == "text/event-stream"
    assert call.body["parameters"] == {"incremental_output": True}


async def test_a_schema_goes_out_and_the_answer_is_checked(server: Scripted) -> None:
    schema = {"title": "Bar chart", "type": "object", "properties": {"v": {"type": "number"}}, "required": ["v"]}
    server.script = [replies.answer('```json\n{"v": 1.5}\n```'), replies.answer('{"v": "1.5"}'), replies.answer("no")]
    async with session(server) as s:
        assert (await s.ask(png(), "?", schema=schema)).value == {"v": 1.5}
        with pytest.raises(errors.InvalidAnswer, match=r"'1.5' is not of type 'number' at \$\.v") as caught:
            await s.ask(png(), "?", schema=schema, mend=False)
        with pytest.raises(errors.InvalidAnswer, match="no JSON"):
            await s.ask(png(), "?", schema=schema, mend=False)
    assert caught.value.answer.text == '{"v": "1.5"}'
    assert server.calls[0].body["parameters"]["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "Bar_chart", "schema": schema, "strict": True},
    }


async def test_an_answer_cut_off_says_so(server: Scripted) -> None:
    server.script = [replies.answer('{"v": 1', finish="length")]
    async with session(server) as s:
        with pytest.raises(errors.InvalidAnswer, match="cut off at the token limit"):
            await s.ask(png(), "?", schema={"type": "object"})


async def test_a_schema_fetches_nothing_from_the_network(server: Scripted) -> None:
    schema = {"$ref": server.url}
    server.script = [replies.answer("{}")]
    async with session(server) as s:
        with pytest.raises(errors.InvalidAnswer, match="leads nowhere"):
            await s.ask(png(), "?", schema=schema, mend=False)
    assert len(server.calls) == 1


REFUSALS: list[tuple[int, str, str, type[errors.ServiceError]]] = [
    (400, "InvalidParameter", "Range of max_tokens should be [1, 32768]", errors.InvalidRequest),
    (400, "InvalidParameter", "Model not exist.", errors.NotFound),
    (400, "Arrearage", "Access denied", errors.AccountBlocked),
    (400, "DataInspectionFailed", "Input data may contain inappropriate content.", errors.InvalidRequest),
    (401, "InvalidApiKey", "Invalid API-key provided.", errors.Unauthorized),
    (403, "AccessDenied", "Access denied.", errors.Forbidden),
    (404, "ModelNotFound", "Model can not be found.", errors.NotFound),
    (413, "BadRequest.TooLarge", "Payload Too Large.", errors.InvalidRequest),
    (429, "Throttling.RateQuota", "Requests rate limit exceeded", errors.Throttled),
    (429, "PostpaidBillOverdue", "overdue", errors.AccountBlocked),
    (500, "InternalError", "An internal error has occured", errors.ServerError),
    (500, "RequestTimeOut", "Request timed out", errors.ServerError),
    (503, "ModelUnavailable", "Model is unavailable", errors.ServerError),
]


@pytest.mark.parametrize(("status", "code", "message", "kind"), REFUSALS)
@pytest.mark.parametrize("form", ["json", "streamed", "event"])
async def test_refusals(
    server: Scripted, status: int, code: str, message: str, kind: type[errors.ServiceError], form: str
) -> None:
    body = {"code": code, "message": message, "request_id": "req-1"}
    event = replies.stream([replies.event(body, "error", status)])
    server.script = [event if form == "event" else replies.refusal(status, code, message)]
    async with session(server, retry=ONCE) as s:
        with pytest.raises(kind) as caught:
            await s.ask(png(), "?", stream=form != "json")
    error = caught.value
    assert type(error) is kind
    assert (error.status, error.code, error.message, error.request_id) == (status, code, message, "req-1")


async def test_a_proxys_page_is_an_error_too(server: Scripted) -> None:
    server.script = [replies.HTMLResponse("<h1>Bad gateway</h1>", 502, {"x-request-id": "r7"})]
    async with session(server, retry=ONCE) as s:
        with pytest.raises(errors.ServerError, match="HTTP 502: <h1>Bad gateway</h1>") as caught:
            await s.ask(png(), "?")
    assert caught.value.request_id == "r7"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({"Retry_After": "3"}, 3.0), ({"Retry_After": "3", "retry_after_ms": "250"}, 0.25), ({}, None),
     ({"Retry_After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0), ({"Retry_After": "soon"}, None)],
)  # fmt: skip
async def test_retry_after_is_read(server: Scripted, headers: dict[str, str], seconds: float | None) -> None:
    server.script = [replies.refusal(429, "Throttling", "later", **headers)]
    async with session(server, retry=ONCE) as s:
        with pytest.raises(errors.Throttled) as caught:
            await s.ask(png(), "?")
    assert caught.value.retry_after == seconds


@pytest.mark.parametrize("stream", [False, True])
async def test_it_asks_again_after_what_may_pass(server: Scripted, stream: bool) -> None:
    server.script = [
        replies.refusal(429, "Throttling", "later", retry_after_ms="1"),
        replies.half,
        replies.refusal(503, "ModelUnavailable", "later"),
        replies.spoken("half a str", end=False) if stream else replies.half,
    ]
    server.default = lambda call: replies.spoken("ok") if stream else replies.answer("ok")
    async with session(server) as s:
        assert (await s.ask(png(), "?", stream=stream)).text == "ok"
    assert len(server.calls) == 5


async def test_it_never_asks_again_what_cannot_succeed(server: Scripted) -> None:
    server.script = [replies.refusal(400, "InvalidParameter", "no")]
    async with session(server) as s:
        with pytest.raises(errors.InvalidRequest):
            await s.ask(png(), "?")
    assert len(server.calls) == 1


async def test_a_stream_is_asked_again_only_before_its_first_piece(server: Scripted) -> None:
    server.script = [replies.refusal(503, "ModelUnavailable", "later"), replies.spoken("a", "b", end=False)]
    async with session(server) as s, aclosing(s.stream(png(), "?")) as pieces:
        assert [(await anext(pieces)).text for _ in range(2)] == ["a", "b"]
        with pytest.raises(errors.ConnectionLost, match="broke off"):
            await anext(pieces)
    assert len(server.calls) == 2


async def test_leaving_a_stream_early_closes_it(server: Scripted) -> None:
    server.script = [replies.spoken(*"abcdef")]
    async with session(server) as s:
        async with aclosing(s.stream(png(), "?")) as pieces:
            assert (await anext(pieces)).text == "a"
        assert (await s.ask(png(), "?")).text


@pytest.mark.parametrize(
    "reply", [replies.JSONResponse({}), replies.JSONResponse([1]), replies.HTMLResponse("hello"),
              replies.JSONResponse({"output": {"choices": []}}), replies.JSONResponse({"output": {"choices": [None]}})],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
async def test_a_success_that_is_no_answer(server: Scripted, reply: replies.Reply, stream: bool) -> None:
    server.script = [reply]
    async with session(server, retry=ONCE) as s:
        with pytest.raises(errors.BadResponse):
            await s.ask(png(), "?", stream=stream)


async def test_content_may_be_a_plain_string(server: Scripted) -> None:
    body = replies.frame("x")
    body["output"]["choices"][0]["message"]["content"] = "plain"
    server.script = [replies.JSONResponse(body)]
    async with session(server) as s:
        assert (await s.ask(png(), "?")).text == "plain"


@pytest.mark.ring3
async def test_nothing_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        async with Session(f"http://127.0.0.1:{taken.getsockname()[1]}", "k", retry=ONCE) as s:
            with pytest.raises(errors.ConnectionFailed, match="cannot reach"):
                await s.ask(png(), "?")


@pytest.mark.ring3
async def test_hanging_up_without_a_word() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.close()
        await writer.wait_closed()

    listener = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with listener, Session(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}", "k", retry=ONCE) as s:
        with pytest.raises(errors.ConnectionLost):
            await s.ask(png(), "?")


async def test_no_answer_in_time(server: Scripted) -> None:
    server.gate.clear()
    async with session(server, timeout=0.05, retry=ONCE) as s:
        with pytest.raises(errors.TimedOut):
            await s.ask(png(), "?")


@pytest.mark.parametrize("image", ["chart.png", b"", b"text", Path("/nowhere/chart.png")])
async def test_an_unusable_image_is_never_sent(server: Scripted, image: Any) -> None:
    async with session(server) as s:
        with pytest.raises(errors.UnusableImage):
            await s.ask(image, "?")
    assert server.calls == []


@pytest.mark.parametrize(
    ("base_url", "key", "words"),
    [
        ("", "k", "no server address"),
        ("http://x", "", "no API key"),
        ("ftp://x", "k", "begins with http"),
        ("x:80/api/v1", "k", "begins with http"),
        ("http://h:port", "k", "is not a URL"),
        ("http://x/compatible-mode/v1", "k", "needs the one with /api/v1"),
        ("http://user:secret@x/api/v1", "k", "^(?!.*secret).*holds a user name"),
        ("http://x", "sk-钥匙", "characters that no key has"),
        ("http://x", "sk-1 sk-2", "characters that no key has"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_sent(base_url: str, key: str, words: str) -> None:
    with pytest.raises(errors.ConfigurationError, match=words):
        Session(base_url, key)


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("http://h:8000", "http://h:8000/api/v1"),
        ("http://h:8000/", "http://h:8000/api/v1"),
        ("https://h/api/v1/", "https://h/api/v1"),
        ("https://h/proxy/api/v1", "https://h/proxy/api/v1"),
    ],
)
async def test_base_url(given: str, used: str) -> None:
    async with Session(given, "k\n") as s:
        assert s.base_url == used


async def test_the_environment_names_server_and_key(server: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DASHSCOPE_HTTP_BASE_URL", server.url)
    monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-env")
    async with Session() as s:
        await s.ask(png(), "?")
    assert server.calls[0].headers["authorization"] == "Bearer sk-env"


async def test_no_proxy_for_this_machine(server: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with session(server, retry=ONCE) as s:
        assert await s.ask(png(), "?")


async def test_the_environments_proxy_for_every_other(server: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", server.url.removesuffix("/api/v1"))
    async with Session("http://homescope.invalid/api/v1", "k", retry=ONCE) as s:
        assert await s.ask(png(), "?")
    [call] = server.calls
    assert call.headers["host"] == "homescope.invalid"


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


async def test_a_socks_proxy_is_gone_through(server: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []
    over = asyncio.Event()
    port = httpx.URL(server.url).port

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """SOCKS 5 without a password (RFC 1928): whatever host is asked for, the scripted server answers."""
        await reader.readexactly((await reader.readexactly(2))[1])
        writer.write(b"\x05\x00")
        name_length = (await reader.readexactly(5))[4]
        asked.append((await reader.readexactly(name_length + 2))[:-2])
        writer.write(b"\x05\x00\x00\x01" + bytes(6))
        onward, back = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, back), pump(onward, writer))
        over.set()

    async with await asyncio.start_server(relay, "127.0.0.1", 0) as proxy:
        monkeypatch.setenv("ALL_PROXY", f"socks5://127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
        async with Session("http://homescope.invalid/api/v1", "k", retry=ONCE) as s:
            assert await s.ask(png(), "?")
        await over.wait()
    assert asked == [b"homescope.invalid"]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("HTTPS_PROXY", "carrier-pigeon://127.0.0.1", "ALL_PROXY cannot be used"),
        ("SSL_CERT_FILE", "/nowhere.pem", "cannot be read: No such file"),
    ],
)
def test_an_environment_that_cannot_work(monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str) -> None:
    monkeypatch.setenv(name, value)
    tls.cache_clear()
    with pytest.raises(errors.ConfigurationError, match=words):
        Session("https://homescope.invalid", "k")


def leaves(kind: type[Exception]) -> Iterator[type[Exception]]:
    yield kind
    for child in kind.__subclasses__():
        yield from leaves(child)


@pytest.mark.parametrize("kind", sorted(set(leaves(httpx.RequestError)), key=str), ids=lambda kind: kind.__name__)
def test_every_error_of_httpx_becomes_ours(kind: type[Exception]) -> None:
    with pytest.raises(errors.HomescopeError) as caught, httpx_errors("http://x/api/v1"):
        raise kind("why")
    assert caught.value.retryable


async def test_an_image_in_base64_is_in_the_request_as_json_would_have_it(server: Scripted) -> None:
    """And one that is given as a data URI, with whatever in it, is still text."""
    odd = 'data:image/png;base64,"\\\n'
    async with Session(server.url, "sk-test") as session:
        await session.ask([png(1), odd, png(2)], "图 \ud83d")
    first, second, third, words = server.calls[0].content
    assert base64.b64decode(first["image"].partition(",")[2]) == png(1)
    assert second["image"] == odd
    assert base64.b64decode(third["image"].partition(",")[2]) == png(2)
    assert words["text"].startswith("图 ")
