"""The official SDK, its API of 1.x: three versions run this one program."""

from __future__ import annotations

from typing import Any

import dashscope
from dashscope import Generation, MultiModalConversation
from dashscope.client.base_api import BaseAsyncApi

from tests.conformance.clients.driver import (
    TOOL_PROMPT,
    TOOL_RESULT,
    WRONG_KEY,
    Ask,
    Calls,
    Seen,
    failed,
    flow,
    seen,
    serve,
)

MODELS: Any = dashscope.Models  # their types say less than they have
FILES: Any = dashscope.Files
TOKENIZATION: Any = dashscope.Tokenization
POLLING = {"task_group": "aigc", "task": "multimodal-generation", "function": "generation"}


def point(ask: Ask) -> None:
    dashscope.base_http_api_url = ask.native


def messages(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


def call(ask: Ask, *parts: dict[str, Any], **options: Any) -> Any:
    point(ask)
    turns = options.pop("messages", None) or messages(*parts, {"text": ask.prompt})
    return MultiModalConversation.call(**{"api_key": ask.key, "model": ask.model, "messages": turns, **options})


def text_of(response: Any) -> str:
    return "".join(part["text"] for part in response.output.choices[0].message.content)


def whole(response: Any) -> Seen:
    if response.status_code != 200:
        return failed(response.status_code, response.code, response.message)
    choice, usage = response.output.choices[0], response.usage
    return seen(
        text_of(response),
        choice.finish_reason,
        tokens=(usage["input_tokens"], usage["output_tokens"]),
        image_tokens=usage.get("image_tokens"),
        request_id=response.request_id,
        reasoning=choice.message.get("reasoning_content"),
    )


class Streamed:
    """Responses noted as they come: the SDK may merge later ones into the same object."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.reasoning = ""
        self.calls = Calls()
        self.last: Any = None

    def add(self, response: Any) -> None:
        self.last = response
        if response.status_code == 200:
            message = response.output.choices[0].message
            self.pieces.append(text_of(response))
            self.reasoning += message.get("reasoning_content") or ""
            for each in message.get("tool_calls") or []:
                function = each["function"]
                self.calls.add(each["index"], each["id"], function.get("name"), function.get("arguments"))

    def seen(self) -> Seen:
        if self.last.status_code != 200:
            return {**failed(self.last.status_code, self.last.code, self.last.message), "pieces": self.pieces}
        return {
            **whole(self.last),
            "text": "".join(self.pieces),
            "pieces": self.pieces,
            "reasoning": self.reasoning,
            "calls": self.calls.list,
        }


def streamed(responses: Any) -> Seen:
    result = Streamed()
    for response in responses:
        result.add(response)
    return result.seen()


@flow("chat")
def chat(ask: Ask) -> Seen:
    return whole(call(ask, {"image": ask.image}))


@flow("stream")
def stream(ask: Ask) -> Seen:
    return streamed(call(ask, {"image": ask.image}, stream=True, incremental_output=True))


@flow("cumulative")
def cumulative(ask: Ask) -> Seen:
    result = streamed(call(ask, {"image": ask.image}, stream=True, incremental_output=False))
    return {**result, "text": result["pieces"][-1]}


@flow("async")
async def aio(ask: Ask) -> Seen:
    point(ask)
    options = {"api_key": ask.key, "model": ask.model, "messages": messages({"image": ask.image}, {"text": ask.prompt})}
    return whole(await dashscope.AioMultiModalConversation.call(**options))  # type: ignore[arg-type]


@flow("async stream")
async def aio_stream(ask: Ask) -> Seen:
    point(ask)
    turns = messages({"image": ask.image}, {"text": ask.prompt})
    options: Any = {"api_key": ask.key, "model": ask.model, "messages": turns, "stream": True}
    responses: Any = await dashscope.AioMultiModalConversation.call(**options, incremental_output=True)
    result = Streamed()
    async for response in responses:
        result.add(response)
    return result.seen()


@flow("text path")
def text_path(ask: Ask) -> Seen:
    point(ask)
    turns = [{"role": "user", "content": ask.prompt}]
    response: Any = Generation.call(api_key=ask.key, model=ask.model, messages=turns, result_format="message")  # type: ignore[arg-type]
    choice, usage = response.output.choices[0], response.usage
    return seen(choice.message.content, choice.finish_reason, tokens=(usage.input_tokens, usage.output_tokens))


@flow("image URL")
def image_url(ask: Ask) -> Seen:
    return whole(call(ask, {"image": ask.image_url}))


@flow("local file")
def local_file(ask: Ask) -> Seen:
    return whole(call(ask, {"image": f"file://{ask.image_path}"}))


@flow("two images")
def two_images(ask: Ask) -> Seen:
    turns = messages({"image": ask.image}, {"image": ask.second}, {"text": ask.comparison})
    return whole(call(ask, messages=turns))


@flow("frames")
def frames(ask: Ask) -> Seen:
    return whole(call(ask, {"video": ask.frames, "fps": 2}))


@flow("video")
def video(ask: Ask) -> Seen:
    return whole(call(ask, {"video": ask.video_url, "fps": 2}))


@flow("tools")
def tools(ask: Ask) -> Seen:
    turns = messages({"text": TOOL_PROMPT})
    return _answered(ask, turns, call(ask, messages=turns, **ask.tools).output.choices[0])


def _answered(ask: Ask, turns: list[dict[str, Any]], choice: Any) -> Seen:
    """The call's result goes back, and the answer comes."""
    calls = choice.message.tool_calls
    history = {"role": "assistant", "content": choice.message.content, "tool_calls": calls}
    result = {"role": "tool", "content": [{"text": TOOL_RESULT}], "tool_call_id": calls[0]["id"]}
    answer = whole(call(ask, messages=[*turns, history, result], **ask.tools | {"tool_choice": "auto"}))
    flat = [{"id": each["id"], **each["function"]} for each in calls]
    return {**answer, "calls": flat, "called": choice.finish_reason}


@flow("tools stream")
def tools_stream(ask: Ask) -> Seen:
    turns = messages({"text": TOOL_PROMPT})
    result = streamed(call(ask, messages=turns, **ask.tools, stream=True, incremental_output=True))
    return {**result, "called": result["finish"]}


@flow("thinking")
def thinking(ask: Ask) -> Seen:
    return streamed(call(ask, {"image": ask.image}, stream=True, incremental_output=True, enable_thinking=True))


@flow("JSON")
def json_object(ask: Ask) -> Seen:
    parts = ({"image": ask.image}, {"text": ask.json_prompt})
    return whole(call(ask, messages=messages(*parts), response_format={"type": "json_object"}))


@flow("wrong key")
def wrong_key(ask: Ask) -> Seen:
    return whole(call(ask, {"image": ask.image}, api_key=WRONG_KEY))


@flow("wrong parameter")
def wrong_parameter(ask: Ask) -> Seen:
    return streamed(call(ask, {"image": ask.image}, stream=True, temperature=2.5))


@flow("broken stream")
def broken_stream(ask: Ask) -> Seen:
    return streamed(call(ask, {"image": ask.image}, stream=True, incremental_output=True))


@flow("task")
def task(ask: Ask) -> Seen:
    point(ask)
    turns = {"messages": messages({"image": ask.image}, {"text": ask.prompt})}
    options: Any = {"api_key": ask.key, "model": ask.model, "input": turns, **POLLING}
    submitted: Any = BaseAsyncApi.async_call(**options)
    if submitted.status_code != 200:
        return failed(submitted.status_code, submitted.code, submitted.message)
    finished: Any = BaseAsyncApi.wait(submitted, api_key=ask.key)
    listed: Any = BaseAsyncApi.list(api_key=ask.key)
    cancelled: Any = BaseAsyncApi.cancel(submitted, api_key=ask.key)
    return seen(
        finished.output["choices"][0]["message"]["content"][0]["text"],
        finished.output["choices"][0]["finish_reason"],
        tokens=(finished.usage["input_tokens"], finished.usage["output_tokens"]),
        status=finished.output["task_status"],
        listed=finished.output["task_id"] in [each["task_id"] for each in listed.output["data"]],
        refusal=cancelled.code,
    )


@flow("async task")
async def aio_task(ask: Ask) -> Seen:
    """What the aio client sends: slashed paths, and a body where none belongs."""
    from dashscope.client.base_api import BaseAsyncAioApi

    point(ask)
    turns = {"messages": messages({"image": ask.image}, {"text": ask.prompt})}
    options: Any = {"api_key": ask.key, "model": ask.model, "input": turns, **POLLING}
    submitted: Any = await BaseAsyncAioApi.async_call(**options)
    if submitted.status_code != 200:
        return failed(submitted.status_code, submitted.code, submitted.message)
    finished: Any = await BaseAsyncAioApi.wait(submitted, api_key=ask.key)
    cancelled: Any = await BaseAsyncAioApi.cancel(submitted, api_key=ask.key)
    return seen(
        finished.output["choices"][0]["message"]["content"][0]["text"],
        finished.output["choices"][0]["finish_reason"],
        tokens=(finished.usage["input_tokens"], finished.usage["output_tokens"]),
        status=finished.output["task_status"],
        listed=True,
        refusal=cancelled.code,
    )


@flow("models")
def models(ask: Ask) -> Seen:
    point(ask)
    listed: Any = MODELS.list(page_size=50, api_key=ask.key)
    one: Any = MODELS.get(ask.model, api_key=ask.key)
    names = [each["model"] for each in listed.output["models"]]
    return {"found": ask.model in names, "one": one.status_code == 200}


@flow("files")
def files(ask: Ask) -> Seen:
    point(ask)
    uploaded: Any = FILES.upload(file_path=ask.image_path, purpose="file-extract", api_key=ask.key)
    file_id = uploaded.output["uploaded_files"][0]["file_id"]
    listed: Any = FILES.list(api_key=ask.key)
    one: Any = FILES.get(file_id, api_key=ask.key)
    deleted: Any = FILES.delete(file_id, api_key=ask.key)
    gone: Any = FILES.get(file_id, api_key=ask.key)
    return {
        "listed": file_id in [each["file_id"] for each in listed.output["files"]],
        "size": one.output["size"],
        "deleted": deleted.status_code == 200,
        "gone": gone.status_code,
    }


@flow("tokens")
def tokens(ask: Ask) -> Seen:
    point(ask)
    turns: Any = [{"role": "user", "content": ask.prompt}]
    response: Any = TOKENIZATION.call(api_key=ask.key, model=ask.model, messages=turns)
    if response.status_code != 200:
        return failed(response.status_code, response.code, response.message)
    ids = response.output["token_ids"]
    return {"ids": len(ids), "pieces": len(response.output["tokens"]), "tokens": response.usage["input_tokens"]}


if __name__ == "__main__":
    serve()
