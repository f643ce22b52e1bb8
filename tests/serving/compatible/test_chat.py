"""The chat endpoint through the whole app, with a scripted engine."""

from __future__ import annotations

import uuid

import httpx
import pytest

from serving.errors import ContextTooLong, Overloaded
from serving.settings import Settings
from tests.fakes import FakeEngine
from tests.serving.compatible.wire import chat, events, image, text, user
from tests.serving.wire import data_uri, picture

PATHS = ["/compatible-mode/v1/chat/completions", "/v1/chat/completions"]
PATH = PATHS[0]


@pytest.mark.parametrize("path", PATHS)
async def test_a_whole_answer(client: httpx.AsyncClient, engine: FakeEngine, path: str) -> None:
    engine.enqueue("A dog ", "on a beach.")
    response = await client.post(path, json=chat())
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert list(body) == ["choices", "object", "usage", "created", "system_fingerprint", "model", "id"]
    message = {"role": "assistant", "content": "A dog on a beach."}
    assert body["choices"] == [{"message": message, "finish_reason": "stop", "index": 0, "logprobs": None}]
    assert (body["object"], body["model"], body["system_fingerprint"]) == ("chat.completion", "qwen3-vl-30b", None)
    assert body["id"] == "chatcmpl-" + response.headers["x-request-id"]
    assert uuid.UUID(body["id"].removeprefix("chatcmpl-"))
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (10, 2)


@pytest.mark.parametrize("headers", [{}, {"accept": "application/json"}, {"x-dashscope-sse": "disable"}])
async def test_the_body_alone_decides_about_streaming(
    client: httpx.AsyncClient, engine: FakeEngine, headers: dict[str, str]
) -> None:
    engine.always("one", "two")
    response = await client.post(PATH, json=chat(stream=True), headers=headers)
    assert response.headers["content-type"] == "text/event-stream;charset=UTF-8"
    assert [event["choices"][0]["delta"]["content"] for event in events(response.content)] == ["", "one", "two", ""]
    whole = await client.post(PATH, json=chat(), headers={"accept": "text/event-stream", "x-dashscope-sse": "enable"})
    assert whole.json()["choices"][0]["message"]["content"] == "onetwo"


async def test_usage_on_request(client: httpx.AsyncClient) -> None:
    response = await client.post(PATH, json=chat(stream=True, stream_options={"include_usage": True}))
    *_, last = events(response.content)
    assert (last["choices"], last["usage"]["total_tokens"]) == ([], 11)


async def test_an_image_reaches_the_engine_as_bytes(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    response = await client.post(PATH, json=chat(user(image(data_uri(picture())), "What is this?")))
    assert response.status_code == 200
    (seen,) = engine.history[0].images
    assert seen.content is not None
    assert (seen.content.width, seen.content.height) == (64, 48)


async def test_an_unknown_model(client: httpx.AsyncClient) -> None:
    response = await client.post(PATH, json=chat(model="gpt-4o"))
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"
    assert response.json()["error"]["message"].startswith("The model gpt-4o does not exist")


@pytest.mark.parametrize("path", ["/v1/completions", "/compatible-mode/v1/embeddings", "/v1/chat"])
async def test_what_is_no_endpoint(client: httpx.AsyncClient, path: str) -> None:
    response = await client.post(path, json={})
    assert response.status_code == 404
    error = response.json()["error"]
    assert error["code"] == "not_found"
    assert error["message"].startswith("Not found! There are: /chat/completions, /models, ")
    assert set(response.json()) >= {"error", "request_id"}


async def test_another_method(client: httpx.AsyncClient) -> None:
    response = await client.get(PATH)
    assert response.status_code == 400
    assert response.json()["error"]["message"] == "Request method 'GET' is not supported."


async def test_a_refusal_of_the_engine_has_its_own_status(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.enqueue(error=ContextTooLong(4096))
    response = await client.post(PATH, json=chat(stream=True))
    assert response.status_code == 400
    body = response.json()
    assert body["error"] == {
        "message": "<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 4096]",
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_parameter_error",
    }
    assert body["id"] == f"chatcmpl-{body['request_id']}"


async def test_overload_says_when_to_come_back(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.enqueue(error=Overloaded(retry_after=2))
    response = await client.post(PATH, json=chat())
    assert (response.status_code, response.headers["retry-after"]) == (429, "2")
    assert response.json()["error"]["type"] == response.json()["error"]["code"] == "limit_requests"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b'{"model":"qwen3-vl-30b"}',
        b'{"model":"qwen3-vl-30b","messages":[]}',
        b'{"model":"qwen3-vl-30b","messages":null}',
        b'{"model":"qwen3-vl-30b","messages":{}}',
        b'{"model":"qwen3-vl-30b","messages":[1]}',
        b'{"model":"qwen3-vl-30b","messages":[{"role":"user","content":"\xff"}]}',
        b'{"model":"qwen3-vl-30b","messages":[{"role":"user","content":"\\ud800"}]}',
        b'{"model":"qwen3-vl-30b","messages":[{"role":"user","content":"hi"}],"temperature":NaN}',
        b'{"model":"qwen3-vl-30b","messages":[{"role":"user","content":"hi"}],"seed":1e999}',
        b'{"model":"qwen3-vl-30b","messages":[{"role":"user","content":"hi"}],"stop":' + b"[" * 99_999,
        b'{"model":"qwen3-vl-30b","messages":' + b"[" * 99_999 + b"]" * 99_999 + b"}",
    ],
)
async def test_bodies_that_are_none(client: httpx.AsyncClient, engine: FakeEngine, body: bytes) -> None:
    response = await client.post(PATH, content=body)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert not engine.history


async def test_the_last_of_duplicate_keys_counts(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    body = b'{"model":"none","model":"qwen3-vl-30b","messages":[],"messages":[{"role":"user","content":"hi"}]}'
    assert (await client.post(PATH, content=body)).status_code == 200
    assert engine.history[0].model == "qwen3-vl-30b"


@pytest.mark.parametrize(
    "part",
    [
        image("data:image/png;base64,"),
        image("data:image/png;base64,AAAA"),
        image(data_uri(picture()[:100])),
        image(data_uri(picture(size=(50_000, 1)))),
        image("file:///etc/passwd"),
        image("oss://nothing"),
        image(""),
        {"type": "image_url"},
        {"type": "image_url", "image_url": 7},
        {"type": "image_url", "image_url": {"url": 7}},
        {"type": "image_url", "image_url": {"url": None}},
        {"type": "image_url", "image_url": {"url": ["x"]}},
        {"type": "image"},
        {"type": ["text"]},
        {"image": "data:x"},
        {"text": "hi"},
        {"type": "text"},
        {"type": "text", "text": None},
        {"type": "text", "text": ["hi"]},
        {"type": "video_url", "video_url": {"url": ""}},
        {"type": "video", "video": []},
        {"type": "video", "video": [1, 2, 3, 4]},
        pytest.param({"type": "video", "video": "data:video/mp4;base64,AAAA"}, marks=pytest.mark.ring3),
        {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}, "fps": "fast"},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
    ],
)
async def test_parts_that_are_none(client: httpx.AsyncClient, engine: FakeEngine, part: dict[str, object]) -> None:
    response = await client.post(PATH, json=chat(user(text("look: "), part)))
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert not engine.history


@pytest.mark.parametrize("path", ["/compatible-mode/v1/models", "/v1/models"])
async def test_models(client: httpx.AsyncClient, settings: Settings, path: str) -> None:
    body = (await client.get(path)).json()
    assert body["object"] == "list"
    assert [model["id"] for model in body["data"]] == list(settings.served_models)
    assert all(model["object"] == "model" for model in body["data"])


@pytest.mark.parametrize("name", ["qwen3-vl-30b", "Qwen/Qwen3-VL-30B-A3B-Instruct"])
async def test_one_model(client: httpx.AsyncClient, name: str) -> None:
    assert (await client.get(f"/v1/models/{name}")).json()["id"] == name


async def test_no_such_model(client: httpx.AsyncClient) -> None:
    response = await client.get("/v1/models/gpt-4o")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")
