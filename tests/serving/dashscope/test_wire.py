"""What clients hold a server to, byte for byte: each part of the wire in one place, on both protocols.

That images count as the cloud counted them is in `tests/serving/media/test_tokens.py`; what the clients themselves make
of it all is in `tests/conformance`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from typing import Any

import httpx
import pytest

from serving.errors import EngineUnavailable
from serving.settings import Settings
from tests.fakes import FakeEngine, called, said, thought
from tests.serving.compatible.wire import chat as compatible_chat
from tests.serving.compatible.wire import events, image
from tests.serving.compatible.wire import user as compatible_user
from tests.serving.conftest import PATH, Server
from tests.serving.dashscope.test_native import LOOK, TEXT_PATH, assert_refused
from tests.serving.dashscope.test_tasks import TASKS, UNSUPPORTED, accepted, ended, held, state
from tests.serving.dashscope.uploading import MAX_BYTES, MODEL, ask, certificate, form, post
from tests.serving.wire import Frame, chat, frames, picture

SSE = {"x-dashscope-sse": "enable"}
COMPATIBLE = "/compatible-mode/v1/chat/completions"
NATIVE = (PATH, TEXT_PATH)
EVENTS = "text/event-stream;charset=UTF-8"
STUB = {"model": "", "parameters": {}, "input": ""}
"""What the aio client of the SDK sends where no body belongs."""

ANSWERS: dict[str, tuple[Any, ...]] = {
    "text": ("one ", "two"),
    "nothing": (),
    "call": (called("", call_id="call_1", name="look"), called('{"page":1}')),
    "logprobs": (said("one", logprob=-0.5),),
}


class TestBodies:
    @pytest.mark.parametrize("answer", ANSWERS)
    @pytest.mark.parametrize("path", NATIVE)
    async def test_a_native_success_is_compact_and_has_no_null(
        self, client: httpx.AsyncClient, engine: FakeEngine, path: str, answer: str
    ) -> None:
        engine.always(*ANSWERS[answer])
        parameters: dict[str, Any] = {"tools": [LOOK], "logprobs": True, "incremental_output": True}
        whole = await client.post(path, json=chat({"role": "user", "content": "你好"}, **parameters))
        assert whole.status_code == 200
        assert_compact(whole.content)
        for frame in (await client.post(path, json=chat(**parameters), headers=SSE)).content.split(b"\n\n")[:-1]:
            assert_compact(frame.partition(b"\ndata:")[2])

    @pytest.mark.parametrize("path", ["/api/v1/models", "/api/v1/tasks", "/api/v1/files", f"{TASKS}/1111"])
    async def test_so_is_what_is_listed(self, client: httpx.AsyncClient, path: str) -> None:
        response = await client.get(path)
        assert response.status_code == 200
        assert_compact(response.content)

    async def test_an_error_begins_with_its_code(self, client: httpx.AsyncClient) -> None:
        response = await client.post(PATH, json=chat(temperature=3))
        assert response.content.startswith(b'{"code":"InvalidParameter","message":"')
        assert_compact(response.content)


def assert_compact(body: bytes) -> None:
    """JSON without a space between its parts, and without a null."""
    read = json.loads(body)
    assert body.decode() == json.dumps(read, ensure_ascii=False, separators=(",", ":"))
    assert not has_null(read)


def has_null(value: object) -> bool:
    if isinstance(value, dict):
        return any(has_null(each) for each in value.values())
    return value is None or (isinstance(value, list) and any(has_null(each) for each in value))


class TestStreams:
    async def test_native_frames(self, client: httpx.AsyncClient, engine: FakeEngine) -> None:
        engine.enqueue("Hi", input_tokens=9)
        response = await client.post(PATH, json=chat(), headers=SSE)
        request_id = response.headers["x-request-id"]
        usage = (
            '"usage":{"input_tokens":9,"output_tokens":1,"total_tokens":10,'
            '"output_tokens_details":{"text_tokens":1},"input_tokens_details":{"text_tokens":9}}'
        )
        assert response.text == (
            "id:1\nevent:result\n:HTTP_STATUS/200\n"
            'data:{"output":{"choices":[{"message":{"content":[{"text":"Hi"}],"role":"assistant"},'
            f'"finish_reason":"null"}}]}},{usage},"request_id":"{request_id}"}}\n\n'
            "id:2\nevent:result\n:HTTP_STATUS/200\n"
            'data:{"output":{"choices":[{"message":{"content":[],"role":"assistant"},'
            f'"finish_reason":"stop"}}]}},{usage},"request_id":"{request_id}"}}\n\n'
        )

    async def test_compatible_chunks(self, client: httpx.AsyncClient, engine: FakeEngine) -> None:
        engine.enqueue("你", input_tokens=9)
        asked = compatible_chat(stream=True, stream_options={"include_usage": True})
        response = await client.post(COMPATIBLE, json=asked)
        created = events(response.content)[0]["created"]

        def chunk(choices: str, usage: str = "null") -> str:
            return (
                f'data: {{"choices":{choices},"object":"chat.completion.chunk","usage":{usage},"created":{created},'
                f'"system_fingerprint":null,"model":"{MODEL}","id":"chatcmpl-{response.headers["x-request-id"]}"}}\n\n'
            )

        def piece(delta: str, reason: str = "null") -> str:
            return chunk(f'[{{"delta":{delta},"finish_reason":{reason},"index":0,"logprobs":null}}]')

        usage = (
            '{"prompt_tokens":9,"completion_tokens":1,"total_tokens":10,'
            '"prompt_tokens_details":{"text_tokens":9},"completion_tokens_details":{"text_tokens":1}}'
        )
        assert response.text == (
            piece('{"content":"","role":"assistant"}')
            + piece('{"content":"你"}')
            + piece('{"content":""}', '"stop"')
            + chunk("[]", usage)
            + "data: [DONE]\n\n"
        )

    @pytest.mark.parametrize("path", [*NATIVE, COMPATIBLE])
    async def test_no_proxy_is_to_keep_or_to_hold_them(self, client: httpx.AsyncClient, path: str) -> None:
        headers = (await client.post(path, json={**chat(), **compatible_chat(stream=True)}, headers=SSE)).headers
        assert headers["content-type"] == EVENTS
        assert (headers["cache-control"], headers["x-accel-buffering"]) == ("no-cache", "no")

    @pytest.mark.parametrize("path", [PATH, COMPATIBLE])
    async def test_each_piece_arrives_before_the_next_is_made(
        self, server: Server, engine: FakeEngine, path: str
    ) -> None:
        gate = asyncio.Event()
        engine.enqueue("one", "two", gate=gate, gated_from=2)
        body = {**chat(), **compatible_chat(stream=True)}
        async with (
            httpx.AsyncClient(base_url=server.url, headers=server.headers | SSE, timeout=5) as client,
            client.stream("POST", path, json=body) as response,
        ):
            lines = response.aiter_lines()
            async for line in lines:
                if '"one"' in line:
                    break
            assert engine.running == 1
            gate.set()
            assert any('"two"' in line for line in [line async for line in lines])


class TestUsage:
    @pytest.mark.parametrize("incremental", [True, False])
    @pytest.mark.parametrize("answer", ANSWERS)
    @pytest.mark.parametrize("path", NATIVE)
    async def test_every_frame_has_three_totals_that_only_grow(
        self, client: httpx.AsyncClient, engine: FakeEngine, path: str, answer: str, incremental: bool
    ) -> None:
        engine.always(*ANSWERS[answer])
        body = chat(tools=[LOOK], incremental_output=incremental)
        usages = [each.data["usage"] for each in frames((await client.post(path, json=body, headers=SSE)).content)]
        for usage in usages:
            assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
        outputs = [usage["output_tokens"] for usage in usages]
        assert outputs == sorted(outputs)
        assert usages[-1] == (await client.post(path, json=body)).json()["usage"]


class TestTriggers:
    @pytest.mark.parametrize(
        ("headers", "streams"),
        [
            ({}, False),
            ({"accept": "application/json; charset=utf-8"}, False),
            ({"accept": "*/*", "x-dashscope-sse": "disable"}, False),
            ({"accept": "*/*", "x-dashscope-sse": "enable"}, True),
            ({"accept": "text/event-stream"}, True),
            ({"accept": "text/event-stream", "x-dashscope-sse": "enable"}, True),
        ],
    )
    @pytest.mark.parametrize("path", NATIVE)
    async def test_either_header_and_never_the_body(
        self, client: httpx.AsyncClient, path: str, headers: dict[str, str], streams: bool
    ) -> None:
        response = await client.post(path, json={**chat(stream=not streams), "stream": not streams}, headers=headers)
        assert response.headers["content-type"] == (EVENTS if streams else "application/json")

    @pytest.mark.parametrize("streams", [False, True])
    async def test_the_body_and_never_a_header_in_compatible_mode(
        self, client: httpx.AsyncClient, streams: bool
    ) -> None:
        headers = {} if streams else {"accept": "text/event-stream", **SSE}
        response = await client.post(COMPATIBLE, json=compatible_chat(stream=streams), headers=headers)
        assert response.headers["content-type"] == (EVENTS if streams else "application/json")


class TestReasonsForTheEnd:
    @pytest.mark.parametrize("path", NATIVE)
    async def test_a_native_one_is_the_word_null_until_then(
        self, client: httpx.AsyncClient, engine: FakeEngine, path: str
    ) -> None:
        engine.enqueue("one", "two")
        got = frames((await client.post(path, json=chat(), headers=SSE)).content)
        assert [reason(frame) for frame in got] == ["null", "null", "stop"]

    async def test_a_compatible_one_is_a_null(self, client: httpx.AsyncClient, engine: FakeEngine) -> None:
        engine.enqueue("one", "two")
        got = events((await client.post(COMPATIBLE, json=compatible_chat(stream=True))).content)
        assert [event["choices"][0]["finish_reason"] for event in got] == [None, None, None, "stop"]


def reason(frame: Frame) -> str:
    return str(frame.data["output"]["choices"][0]["finish_reason"])


class TestFailures:
    @pytest.mark.parametrize("headers", [{}, SSE])
    async def test_one_before_the_first_frame_is_a_real_status(
        self, client: httpx.AsyncClient, engine: FakeEngine, headers: dict[str, str]
    ) -> None:
        engine.enqueue(error=EngineUnavailable(retry_after=5))
        response = await client.post(PATH, json=chat(), headers=headers)
        assert_refused(response, 503, "ModelUnavailable", "Model is unavailable, please try again later.")
        assert response.headers["retry-after"] == "5"

    async def test_one_after_it_is_a_last_frame(self, client: httpx.AsyncClient, engine: FakeEngine) -> None:
        engine.enqueue("Reve", error=EngineUnavailable())
        response = await client.post(PATH, json=chat(), headers=SSE)
        assert response.status_code == 200
        result, error = frames(response.content)
        assert (result.id, result.event) == (1, "result")
        assert (error.id, error.event, error.status) == (2, "error", 503)
        assert response.content.endswith(
            b'id:2\nevent:error\n:HTTP_STATUS/503\ndata:{"code":"ModelUnavailable","message":"Model is unavailable, '
            b'please try again later.","request_id":"%s"}\n\n' % response.headers["x-request-id"].encode()
        )

    async def test_one_after_it_in_compatible_mode(self, client: httpx.AsyncClient, engine: FakeEngine) -> None:
        engine.enqueue("one", error=EngineUnavailable())
        response = await client.post(COMPATIBLE, json=compatible_chat(stream=True))
        assert response.status_code == 200
        *_, last, rest = response.content.split(b"\n\n")
        assert rest == b""
        assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "model_unavailable"
        assert b"[DONE]" not in response.content

    async def test_thoughts_are_no_answer_yet(self, client: httpx.AsyncClient, engine: FakeEngine) -> None:
        engine.enqueue(thought("Hm"), error=EngineUnavailable())
        assert [each.event for each in frames((await client.post(PATH, json=chat(), headers=SSE)).content)] == [
            "result",
            "error",
        ]


class TestTasks:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"async_tasks": True, "background_concurrency": 1})

    @pytest.mark.parametrize("slash", ["", "/"])
    async def test_no_route_minds_a_slash(self, client: httpx.AsyncClient, slash: str) -> None:
        task_id = await accepted(client)
        await ended(client, task_id)
        assert (await client.get(f"{TASKS}/{task_id}{slash}")).json()["output"]["task_status"] == "SUCCEEDED"
        assert (await client.get(f"{TASKS}{slash}")).json()["total"] == 1

    @pytest.mark.parametrize("value", ["enable", "disable"])
    async def test_a_poll_may_have_the_header_of_a_submission(self, client: httpx.AsyncClient, value: str) -> None:
        task_id = await accepted(client)
        response = await client.get(f"{TASKS}/{task_id}", headers={"x-dashscope-async": value})
        assert (response.status_code, response.json()["output"]["task_id"]) == (200, task_id)

    @pytest.mark.parametrize("options", [{}, {"json": STUB}, {"content": b"\xff{"}], ids=str)
    @pytest.mark.parametrize("slash", ["", "/"])
    async def test_a_waiting_one_is_canceled_whatever_the_body(
        self, client: httpx.AsyncClient, engine: FakeEngine, slash: str, options: dict[str, Any]
    ) -> None:
        _, gate = await held(client, engine)
        task_id = await accepted(client)
        response = await client.post(f"{TASKS}/{task_id}/cancel{slash}", **options)
        assert response.status_code == 200
        assert response.json() == {"request_id": response.headers["x-request-id"]}
        assert (await state(client, task_id))["output"]["task_status"] == "CANCELED"
        again = await client.post(f"{TASKS}/{task_id}/cancel{slash}")
        assert (again.status_code, again.json()["code"]) == (400, "UnsupportedOperation")
        gate.set()
        assert len(engine.history) == 1

    @pytest.mark.parametrize("task_id", ["1111", str(uuid.UUID(int=0)), "x" * 500])
    async def test_an_unknown_one_is_unknown_with_200(self, client: httpx.AsyncClient, task_id: str) -> None:
        response = await client.get(f"{TASKS}/{task_id}")
        assert response.status_code == 200
        assert response.json()["output"] == {"task_id": task_id, "task_status": "UNKNOWN"}

    async def test_what_runs_has_ended_or_never_was_cannot_be_canceled(
        self, client: httpx.AsyncClient, engine: FakeEngine
    ) -> None:
        task_id, gate = await held(client, engine)
        refusals = [await client.post(f"{TASKS}/{task_id}/cancel"), await client.post(f"{TASKS}/1111/cancel")]
        gate.set()
        await ended(client, task_id)
        refusals.append(await client.post(f"{TASKS}/{task_id}/cancel/"))
        for response in refusals:
            assert_refused(response, 400, "UnsupportedOperation", UNSUPPORTED)


class TestUploads:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"max_upload_bytes": MAX_BYTES})

    async def test_a_certificate_has_ten_keys_of_the_right_types(self, client: httpx.AsyncClient) -> None:
        answer = await client.get("/api/v1/uploads", params={"action": "getPolicy", "model": MODEL})
        assert sorted(answer.json()) == ["data", "request_id"]
        data = answer.json()["data"]
        numbers = ("expire_in_seconds", "max_file_size_mb", "capacity_limit_mb")
        texts = ("policy", "signature", "upload_dir", "upload_host", "oss_access_key_id", "x_oss_object_acl")
        assert {key: type(value) for key, value in data.items()} == {
            **dict.fromkeys(numbers, int),
            **dict.fromkeys((*texts, "x_oss_forbid_overwrite"), str),
        }
        assert (data["expire_in_seconds"], data["max_file_size_mb"], data["x_oss_forbid_overwrite"]) == (300, 1, "true")
        assert data["capacity_limit_mb"] < 2**31
        policy = json.loads(base64.b64decode(data["policy"]))
        assert [each if isinstance(each, list) else [*each] for each in policy["conditions"]] == [
            ["content-length-range", 0, MAX_BYTES],
            ["starts-with", "$key", data["upload_dir"]],
            ["bucket"],
            ["x-oss-object-acl"],
            ["x-oss-forbid-overwrite"],
        ]

    async def test_the_form_is_answered_200_and_the_engine_sees_what_it_brought(
        self, client: httpx.AsyncClient, engine: FakeEngine
    ) -> None:
        fields = form(await certificate(client), "图 表.png")
        assert (await post(client, fields, picture(), "图 表.png")).status_code == 200
        answer = await ask(client, "oss://" + fields["key"])
        assert answer.status_code == 200, answer.text
        (image,) = engine.history[0].images
        assert image.content is not None
        assert image.content.data == picture()

    async def test_its_url_needs_the_header(self, client: httpx.AsyncClient) -> None:
        fields = form(await certificate(client), "a.png")
        await post(client, fields, picture())
        answer = await ask(client, "oss://" + fields["key"], **{"x-dashscope-ossresourceresolve": ""})
        assert_refused(
            answer, 400, "InvalidParameter", "The provided URL does not appear to be valid. Ensure it is correctly"
        )

    async def test_so_does_it_in_compatible_mode(self, client: httpx.AsyncClient, engine: FakeEngine) -> None:
        fields = form(await certificate(client), "a.png")
        await post(client, fields, picture())
        body = compatible_chat(compatible_user(image("oss://" + fields["key"]), "?"))
        refused = await client.post(COMPATIBLE, json=body)
        assert refused.status_code == 400
        assert "The provided URL does not appear to be valid." in refused.json()["error"]["message"]
        answer = await client.post(COMPATIBLE, json=body, headers={"x-dashscope-ossresourceresolve": "enable"})
        assert answer.status_code == 200, answer.text
        assert [each.content and each.content.data for each in engine.history[0].images] == [picture()]


class TestKeys:
    @pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer sk-wrong", "Basic abc"])
    @pytest.mark.parametrize("headers", [{}, SSE])
    async def test_none_or_a_wrong_one(
        self, client: httpx.AsyncClient, authorization: str | None, headers: dict[str, str]
    ) -> None:
        del client.headers["authorization"]
        given = headers if authorization is None else headers | {"authorization": authorization}
        for path in NATIVE:
            response = await client.post(path, json=chat(), headers=given)
            assert_refused(response, 401, "InvalidApiKey", "Invalid API-key provided.")

    @pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer sk-wrong", "Basic abc"])
    async def test_in_compatible_mode_too(self, client: httpx.AsyncClient, authorization: str | None) -> None:
        del client.headers["authorization"]
        headers = {} if authorization is None else {"authorization": authorization}
        response = await client.post(COMPATIBLE, json=compatible_chat(), headers=headers)
        assert (response.status_code, response.headers["content-type"]) == (401, "application/json")
        assert response.json() == {
            "error": {
                "message": "Incorrect API key provided.",
                "type": "invalid_request_error",
                "param": None,
                "code": "invalid_api_key",
            },
            "request_id": response.headers["x-request-id"],
        }
