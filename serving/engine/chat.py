from __future__ import annotations

import json
import re
from collections.abc import Set
from itertools import groupby
from typing import Any

import orjson
import pybase64

from serving.errors import GenerationFailed, InvalidRequest
from serving.generation import (
    Generation,
    Image,
    Message,
    Part,
    ResponseFormat,
    Text,
    Thinking,
    Tool,
    ToolCall,
    Tools,
    Video,
)

CONTROL_TOKEN = re.compile(r"<(?=\|[a-z_]+\|>)")
"""The opening of `<|im_end|>`, `<|image_pad|>` and their like. vLLM's tokenizer makes control tokens of them wherever
they stand: a user could close the turn or, with image placeholders that match no image, break the request."""

WORD_JOINER = "\u2060"
STREAM_INTERVAL = 32
"""Tokens in a chunk of an answer that nobody reads as it comes. A chunk costs vLLM as much CPU as some tokens of a
small model do, and the gateway 30 us; an answer that a deadline cuts off lacks fewer than so many tokens."""
MAX_THOUGHT = 81_920
"""Tokens that a model of the family thinks at most."""
BACKGROUND = 10
"""vLLM's priority of what nobody waits for; 0 is that of everything else, lower comes first."""
PENALTIES = (0.01, 100.0)
"""Of what is a factor of every logit. The cloud takes any above 0; beyond these the answer is no other, but infinite
logits make log-probabilities that are no numbers, of which vLLM makes a 500."""
LONG = 4096
"""Characters of a URL that may be an image itself."""
MAX_STOPS = 4
"""Stop strings that vLLM takes with one request."""


def body(generation: Generation, model: str, *, without: Set[str] = frozenset()) -> bytes:
    """A `/v1/chat/completions` request that streams; `model` is the engine's name for it.

    Names in `without` are left out: without "max_tokens" the answer may fill what the prompt leaves of the context.
    """
    try:
        request = _request(generation, model)
        return orjson.dumps({name: value for name, value in request.items() if name not in without})
    except orjson.JSONEncodeError as error:
        raise InvalidRequest(f"A JSON schema of the request cannot be used: {error}.") from None


def _request(generation: Generation, model: str) -> dict[str, Any]:
    request: dict[str, Any] = {
        "model": model,
        "messages": [_message(message) for message in generation.messages],
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        **_sampling(generation),
        **_thinking(generation.thinking),
        **_tools(generation.tools),
    }
    if generation.response_format is not None:
        request["response_format"] = _response_format(generation.response_format)
    if not generation.streamed and not _counts_answer(generation):
        request["stream_interval"] = STREAM_INTERVAL
    if generation.videos:
        request["media_io_kwargs"] = {"video": _video_options(generation.videos)}
    if generation.salt:
        request["cache_salt"] = generation.salt
    if generation.priority == "background":
        request["priority"] = BACKGROUND
    if generation.messages[-1].partial:
        request |= {"continue_final_message": True, "add_generation_prompt": False}
    return request


def max_tokens(generation: Generation) -> int | None:
    """What vLLM's `max_tokens` has to be, which counts the reasoning too."""
    answer = generation.sampling.max_tokens
    if answer is not None and _counts_answer(generation):
        answer += generation.thinking.budget or MAX_THOUGHT
    limits = (answer, generation.sampling.max_completion_tokens)
    return min((limit for limit in limits if limit is not None), default=None)


def _counts_answer(generation: Generation) -> bool:
    """Whether tokens of the answer are to be told from those of the reasoning, one by one."""
    return bool(generation.thinking.enabled) and generation.sampling.max_tokens is not None


def neutral(text: str) -> str:
    """The text with control tokens broken up by an invisible character, so that they are read as letters."""
    return CONTROL_TOKEN.sub("<" + WORD_JOINER, text) if "<|" in text else text


def apart(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """The parts, with texts made one where they make a control token together: chat templates write one directly behind
    the other."""
    found: list[Part] = []
    for are_texts, run in groupby(parts, lambda part: isinstance(part, Text)):
        neighbours = list(run)
        whole = "".join(neutral(part.text) for part in neighbours if isinstance(part, Text))
        found += [Text(whole)] if are_texts and CONTROL_TOKEN.search(whole) else neighbours
    return tuple(found)


def _message(message: Message) -> dict[str, Any]:
    sent: dict[str, Any] = {"role": message.role, "content": _content(message.parts)}
    if message.tool_calls:
        sent["tool_calls"] = [_call(call) for call in message.tool_calls]
    if message.role == "tool":
        sent["tool_call_id"] = message.tool_call_id or ""
    if message.reasoning:
        sent["reasoning"] = neutral(message.reasoning)
    return sent


def _content(parts: tuple[Part, ...]) -> str | list[dict[str, Any]]:
    match parts:
        case ():
            return ""
        case (Text(text),):
            return neutral(text)
    return [_part(part) for part in apart(parts)]


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": neutral(call.name), "arguments": _arguments(call.arguments)}
    return {"id": call.id, "type": "function", "function": function}


def _arguments(text: str) -> str:
    """vLLM reads them, and the template writes them anew: what is escaped here is not there. Raises
    `InvalidRequest`."""
    if "\\" not in text:
        return neutral(text)
    try:
        plain = json.dumps(json.loads(text))
    except ValueError:  # vLLM does not read it either
        return neutral(text)
    except RecursionError:
        raise InvalidRequest("The arguments of a call in 'tool_calls' are nested too deeply.") from None
    return neutral(plain if CONTROL_TOKEN.search(plain) else text)


def _part(part: Part) -> dict[str, Any]:
    if isinstance(part, Image):
        return _image(part)
    if isinstance(part, Video):
        return {"type": "video_url", "video_url": {"url": _frames(part)}}
    return {"type": "text", "text": neutral(part.text)}


def _frames(video: Video) -> str:
    """The form in which vLLM takes frames that have been sampled: their base64, joined by commas."""
    if video.content is None:
        raise GenerationFailed
    return "data:video/jpeg;base64," + ",".join(
        pybase64.b64encode_as_string(frame.data) for frame in video.content.frames
    )


def _video_options(videos: tuple[Video, ...]) -> dict[str, Any]:
    """Without a bound of its own vLLM keeps 32 frames. The rate is what it computes the time of each frame from; it
    takes one for all the videos of a request."""
    rates = [video.content.fps for video in videos if video.content is not None]
    return {"num_frames": -1, "fps": rates[0] if rates else 1.0}


def _image(image: Image) -> dict[str, Any]:
    content = {"url": _verbatim(image.reference)} if image.reference else None
    named = {} if image.uuid is None else {"uuid": image.uuid}
    return {"type": "image_url", "image_url": content, **named}


def _verbatim(url: str) -> str | orjson.Fragment:
    """A long data URI as it stands in JSON. orjson takes eight times its length to be prepared for escapes: new memory
    each time, 330 page faults for an image of 1 MB."""
    if len(url) < LONG or not url.isascii() or '"' in url or "\\" in url:
        return url
    return orjson.Fragment(f'"{url}"')


def _sampling(generation: Generation) -> dict[str, Any]:
    sampling = generation.sampling
    if len(sampling.stop) > MAX_STOPS:
        raise InvalidRequest(f"At most {MAX_STOPS} stop strings can be given, got {len(sampling.stop)}.")
    given = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "repetition_penalty": _penalty(sampling.repetition_penalty),
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "max_tokens": max_tokens(generation),
        "seed": sampling.seed,
        "stop": list(sampling.stop) or None,
        "stop_token_ids": list(sampling.stop_token_ids) or None,
        "n": sampling.n if sampling.n > 1 else None,
        "logprobs": None if sampling.logprobs is None else True,
        "top_logprobs": sampling.logprobs or None,
    }
    return {name: value for name, value in given.items() if value is not None}


def _penalty(factor: float | None) -> float | None:
    return None if factor is None else min(max(factor, PENALTIES[0]), PENALTIES[1])


def _thinking(thinking: Thinking) -> dict[str, Any]:
    """The switch is the chat template's; templates that have none do not see it."""
    switch = {} if thinking.enabled is None else {"chat_template_kwargs": {"enable_thinking": thinking.enabled}}
    return switch if thinking.budget is None else {**switch, "thinking_token_budget": thinking.budget}


def _tools(tools: Tools | None) -> dict[str, Any]:
    if tools is None:
        return {}
    choice = tools.choice
    # A call that the model did not choose to make is held to the schema; else a small one writes anything.
    strict = choice not in ("auto", "none")
    offered = [{"type": "function", "function": _function(tool, strict)} for tool in tools.offered]
    named = choice not in ("auto", "none", "required")
    return {
        "tools": _neutral_json(offered),
        "tool_choice": {"type": "function", "function": {"name": neutral(choice)}} if named else choice,
        "parallel_tool_calls": tools.parallel,
    }


def _function(tool: Tool, strict: bool) -> dict[str, Any]:
    given = {
        "name": tool.name,
        "description": tool.description or None,
        "parameters": tool.parameters,
        "strict": strict or None,
    }
    return {key: value for key, value in given.items() if value is not None}


def _neutral_json(value: object) -> orjson.Fragment:
    """The template writes tools into the prompt as they are: control tokens in them are broken up in every string."""
    return orjson.Fragment(neutral(orjson.dumps(value).decode()))


def _response_format(wanted: ResponseFormat) -> dict[str, Any]:
    if wanted.kind == "json_object":
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"name": wanted.name, "schema": wanted.schema, "strict": True}}
