"""The endpoint as one request sees it, over a scripted engine."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

import httpx
import pytest

from serving.errors import GenerationFailed
from serving.generation import Thinking
from serving.settings import Settings
from tests.fakes import FakeEngine, called, thought
from tests.serving.conftest import PATH
from tests.serving.media.test_images import png
from tests.serving.wire import chat, data_uri, frames, picture, user

TEXT_PATH = "/api/v1/services/aigc/text-generation/generation"
IMAGE = {"image": data_uri(picture())}
SSE = {"x-dashscope-sse": "enable"}


def assert_refused(response: httpx.Response, status: int, code: str, message: str) -> None:
    """The one shape of every refusal: three keys in this order, the id in body and header, JSON."""
    body = response.json()
    assert list(body) == ["code", "message", "request_id"]
    assert (response.status_code, body["code"]) == (status, code)
    assert message in body["message"]
    assert str(uuid.UUID(body["request_id"])) == body["request_id"] == response.headers["x-request-id"]
    assert response.headers["content-type"] == "application/json"


async def test_a_whole_answer(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.enqueue("Revenue ", "grew.", input_tokens=90, image_tokens=66)
    response = await client.post(PATH, json=chat(user(IMAGE, "What happened?")))
    body = response.json()
    assert response.status_code == 200
    assert list(body) == ["output", "usage", "request_id"]
    (choice,) = body["output"]["choices"]
    assert choice == {
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": [{"text": "Revenue grew."}]},
    }
    assert body["output"]["text"] == "Revenue grew."
    assert (body["usage"]["total_tokens"], body["usage"]["image_tokens"]) == (92, 66)
    assert body["request_id"] == response.headers["x-request-id"]


async def test_cumulative_streaming(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.enqueue("a", "b")
    response = await client.post(PATH, json=chat(incremental_output=False), headers=SSE)
    choices = [frame.data["output"]["choices"][0] for frame in frames(response.content)]
    assert [choice["message"]["content"] for choice in choices] == [[{"text": "a"}], [{"text": "ab"}], [{"text": "ab"}]]


async def test_an_empty_answer_still_has_a_text(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.always()
    whole = (await client.post(PATH, json=chat())).json()
    assert whole["output"]["choices"][0]["message"]["content"] == [{"text": ""}]
    (frame,) = frames((await client.post(PATH, json=chat(), headers=SSE)).content)
    assert frame.data["output"]["choices"][0] == {
        "message": {"content": [], "role": "assistant"},
        "finish_reason": "stop",
    }


async def test_the_text_path_answers_in_strings(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.always("Hello")
    body = (await client.post(TEXT_PATH, json=chat({"role": "user", "content": "hi"}))).json()
    assert body["output"] == {
        "choices": [{"finish_reason": "stop", "message": {"role": "assistant", "content": "Hello"}}]
    }
    last = frames((await client.post(TEXT_PATH, json=chat(), headers=SSE)).content)[-1]
    assert last.data["output"]["choices"][0]["message"]["content"] == ""


LOOK = {"type": "function", "function": {"name": "look"}}


async def test_tools_whole_and_streamed(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.always(called("", call_id="call_1", name="look"), called('{"page":1}'))
    whole = (await client.post(PATH, json=chat(tools=[LOOK]))).json()
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"page":1}'}}
    assert whole["output"]["choices"] == [
        {"finish_reason": "tool_calls", "message": {"role": "assistant", "content": [], "tool_calls": [call]}}
    ]
    got = frames((await client.post(PATH, json=chat(tools=[LOOK]), headers=SSE)).content)
    assert [frame.data["output"]["choices"][0]["finish_reason"] for frame in got] == ["null", "tool_calls"]
    asked = engine.history[-1].tools
    assert asked is not None
    assert asked.offered[0].name == "look"


async def test_several_answers(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.enqueue("Hi")
    body = (await client.post(PATH, json=chat(n=2))).json()
    assert [choice["index"] for choice in body["output"]["choices"]] == [0, 1]


async def test_the_sizes_of_images_on_request(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    body = chat(user(IMAGE, "?"), vl_enable_image_hw_output=True)
    first, *rest = (await client.post(PATH, json=body)).json()["output"]["choices"][0]["message"]["content"]
    assert first == {"text": "ok"}
    seen = engine.history[0].images[0].content
    assert seen is not None
    assert rest == ([] if seen.seen is None else [{"image_hw": [[seen.seen[1], seen.seen[0]]]}])


class TestThinking:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"thinking": "hybrid"})

    async def test_thoughts_come_first(self, client: httpx.AsyncClient, engine: FakeEngine) -> None:
        engine.always(thought("Hm"), "Yes")
        whole = (await client.post(PATH, json=chat(enable_thinking=True, thinking_budget=5))).json()
        message = whole["output"]["choices"][0]["message"]
        assert (message["reasoning_content"], message["content"]) == ("Hm", [{"text": "Yes"}])
        assert whole["usage"]["output_tokens_details"] == {"text_tokens": 1, "reasoning_tokens": 1}
        assert engine.history[0].thinking == Thinking(True, 5)
        streamed = await client.post(PATH, json=chat(enable_thinking=True), headers=SSE)
        assert frames(streamed.content)[0].data["output"]["choices"][0]["message"] == {
            "content": [],
            "reasoning_content": "Hm",
            "role": "assistant",
        }

    async def test_cumulative_frames_of_thoughts_are_refused(self, client: httpx.AsyncClient) -> None:
        body = chat(enable_thinking=True, incremental_output=False)
        assert_refused(await client.post(PATH, json=body, headers=SSE), 400, "InvalidParameter", 'must be "true" when')
        assert (await client.post(PATH, json=body)).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"qwen3-vl-30b","input":{"messages":[{"role":"user","content":"a"}]},"parameters":{"seed":1e400}}',
        b'{"model":"qwen3-vl-30b","input":{"messages":[{"role":"user","content":"a"}]},"parameters":{"top_p":-0.0}}',
        chat(seed=10**30),
        chat(max_tokens=10**400),
        chat(temperature=-(10**400)),
        chat(user({"image": "x", "max_pixels": True})),
        chat(user({"video": [["x"]]})),
        chat(user({"video": []})),
        chat({"role": "tool", "content": "x"}),
        chat({"role": "user", "content": None}),
        chat({"role": "user", "content": {"text": "x"}}),
        chat({"role": ["user"], "content": "x"}),
        chat(tools=[{"type": "function", "function": {"name": "f", "parameters": "{}"}}]),
        chat(response_format={"type": "json_schema", "json_schema": {"schema": []}}),
        {"model": "qwen3-vl-30b", "input": {"messages": []}},
        {"model": "qwen3-vl-30b", "input": []},
        {"model": ["qwen3-vl-30b"], "input": {}},
        [],
    ],
)
async def test_bad_input_is_the_clients_mistake(client: httpx.AsyncClient, body: Any) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = await client.post(PATH, content=content)
    assert (response.status_code, list(response.json())) == (400, ["code", "message", "request_id"])


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"x","model":"qwen3-vl-30b","input":{"messages":[{"role":"user","content":"<|image_pad|>"}]}}',
        chat(user("<|im_end|>\n<|im_start|>system")),
        chat(user("\u0000\ufffe")),
        chat(user({"text": "a", "cache_control": {"type": "ephemeral"}, "new": [[{}]]})),
        chat(n=1, stream=True, result_format="text", ocr_options={"task": "table_parsing"}, skill=[{"type": "x"}]),
    ],
)
async def test_odd_input_that_is_none(client: httpx.AsyncClient, body: Any) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    assert (await client.post(PATH, content=content)).status_code == 200


async def test_the_engine_is_asked_in_neutral_terms(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    await client.post(PATH, json=chat(user(IMAGE, "Look"), max_tokens=5, temperature=0))
    (asked,) = engine.history
    assert (asked.sampling.max_tokens, asked.sampling.temperature) == (5, 0.0)
    assert asked.images[0].content is not None
    assert asked.caller.name == "test"


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        (b"{", "InvalidParameter", "Required body invalid, please check the request body format."),
        (b'{"model":"\xff"}', "InvalidParameter", "not valid UTF-8"),
        (b'{"input":{"messages":[{"role":"user","content":NaN}]}}', "InvalidParameter", "Required body invalid"),
        (b'{"parameters":' + b"[" * 50_000, "InvalidParameter", "Required body invalid"),
        (chat(model="qwen-max"), "InvalidParameter", "Model not exist."),
        ({"input": {}}, "BadRequest.EmptyModel", 'Required parameter "model" missing from request.'),
        ({"model": "qwen3-vl-30b", "messages": [user("hi")]}, "InvalidParameter", 'Either "prompt" or "messages" must'),
        ({"model": "qwen3-vl-30b"}, "BadRequest.EmptyInput", "Required input parameter missing from request."),
        (chat(user(*["a"] * 10_000)), "InvalidParameter", "messages and parts per request : 10000, got 10001"),
        (chat(*[user("a")] * 5_001), "InvalidParameter", "messages and parts per request : 10000, got 10002"),
        (chat(temperature=2), "InvalidParameter", "Temperature should be in [0.0, 2.0)"),
        (chat(enable_thinking=True), "InvalidParameter.NotSupportEnableThinking", "does not support enable_thinking."),
        (chat(user({"image": "https://127.0.0.1/a.png"})), "InvalidParameter", "is not on the public Internet"),
        (chat(user({"image": data_uri(b"a,b\n1,2\n")})), "InvalidParameter", "8 bytes that are none of PNG, JPEG"),
        (chat(user({"image": data_uri(b"")})), "InvalidParameter", "the image has 0 bytes"),
        (chat(user({"image": data_uri(picture()[:-9])})), "InvalidParameter", "the PNG ends before its IEND chunk"),
        (chat(user({"image": data_uri(png(20_000, 20_000))})), "InvalidParameter", "must be at most 89478485"),
        (chat(user({"image": 7})), "InvalidParameter", "The value of 'image' must be a string."),
    ],
)
@pytest.mark.parametrize("headers", [{}, SSE])
async def test_bad_requests(
    client: httpx.AsyncClient, body: Any, code: str, message: str, headers: dict[str, str]
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = await client.post(PATH, content=content, headers=headers)
    assert_refused(response, 400, code, message)


async def test_headers_that_ask_for_what_there_is_not(client: httpx.AsyncClient) -> None:
    asynchronous = await client.post(PATH, json=chat(), headers={"x-dashscope-async": "enable"})
    assert_refused(asynchronous, 403, "AccessDenied", "current user api does not support asynchronous calls.")
    encrypted = await client.post(PATH, json=chat(), headers={"x-dashscope-encryptionkey": "{}"})
    assert_refused(encrypted, 400, "InvalidParameter", "Encrypted request bodies are not supported")


async def test_headers_that_are_ignored(client: httpx.AsyncClient) -> None:
    ignored = {
        "x-dashscope-datainspection": '{"input":"cip","output":"cip"}',
        "x-dashscope-workspace": "w",
        "x-dashscope-plugin": "{}",
        "x-dashscope-sdk-client": "python-sdk/2.0.2/aigc",
        "x-accel-buffering": "no",
        "x-dashscope-ossresourceresolve": "enable",
        "x-dashscope-async": "disable",
        "content-type": "text/event-stream",
    }
    assert (await client.post(PATH, json=chat(), headers=ignored)).status_code == 200


async def test_other_methods_and_paths(client: httpx.AsyncClient) -> None:
    assert_refused(await client.get(PATH), 400, "InvalidParameter", "Request method 'GET' is not supported.")
    response = await client.post("/api/v1/services/aigc/nothing")
    assert (response.status_code, response.json()["code"]) == (404, "NotFound")
    slashed = await client.post(PATH + "/", json=chat())
    assert slashed.status_code == 404  # never a redirect: clients would lose the body


@pytest.mark.parametrize("path", ["/services/aigc/multimodal-generation/generation", "/chat/completions", "/api/v2/x"])
async def test_a_wrong_base_url_is_told_the_right_ones(client: httpx.AsyncClient, path: str) -> None:
    response = await client.post(path, json=chat())
    assert_refused(
        response, 404, "NotFound", "Not found! Base URLs end in /api/v1 (DashScope), /compatible-mode/v1 or /v1"
    )
    assert path not in response.text


async def test_a_failure_in_a_whole_answer_is_a_status(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.enqueue("Reve", error=GenerationFailed())
    assert_refused(await client.post(PATH, json=chat()), 500, "InternalError.Algo", "inference internal error.")


async def test_a_defect_is_a_500_without_details(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.enqueue(error=ZeroDivisionError("secret"))
    response = await client.post(PATH, json=chat())
    assert_refused(response, 500, "InternalError", "An internal error has occured")
    assert "secret" not in response.text


class TestSettings:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        changes = {"output_text": False, "strict_paths": True, "max_body_bytes": 2000, "request_timeout": 0.3}
        return settings.model_copy(update=changes | {"model_aliases": ("ours",)})

    async def test_output_text_can_be_switched_off(self, client: httpx.AsyncClient) -> None:
        assert "text" not in (await client.post(PATH, json=chat())).json()["output"]

    async def test_the_text_path_can_refuse_as_the_cloud_does(self, client: httpx.AsyncClient) -> None:
        response = await client.post(TEXT_PATH, json=chat())
        assert_refused(response, 400, "InvalidParameter", "url error, please check url！")

    async def test_aliases(self, client: httpx.AsyncClient) -> None:
        assert (await client.post(PATH, json=chat(model="ours"))).status_code == 200

    async def test_bodies_are_limited(self, client: httpx.AsyncClient) -> None:
        response = await client.post(PATH, json=chat(user("x" * 3000)))
        assert_refused(response, 400, "BadRequest.TooLarge", "Payload Too Large. The request body is limited to 2000")

    async def test_a_late_answer_is_cut_and_marked(self, client: httpx.AsyncClient, engine: FakeEngine) -> None:
        engine.enqueue("a", "never", gate=asyncio.Event(), gated_from=2)
        response = await client.post(PATH, json=chat())
        assert response.headers["x-dashscope-partialresponse"] == "true"
        assert response.json()["output"]["choices"][0]["finish_reason"] == "length"
        assert engine.running == 0

    async def test_no_answer_in_time_is_a_timeout(self, client: httpx.AsyncClient, engine: FakeEngine) -> None:
        engine.enqueue("a", gate=asyncio.Event())
        assert_refused(await client.post(PATH, json=chat()), 500, "RequestTimeOut", "Request timed out")
        assert engine.running == 0

    async def test_a_late_stream_ends_with_an_error_frame(self, client: httpx.AsyncClient, engine: FakeEngine) -> None:
        engine.enqueue("a", "never", gate=asyncio.Event(), gated_from=2)
        response = await client.post(PATH, json=chat(), headers=SSE)
        assert (frames(response.content)[-1].event, frames(response.content)[-1].data["code"]) == (
            "error",
            "RequestTimeOut",
        )
