"""What the engine says in each flow, and what must then be true of what the client said and the engine was asked."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from serving.errors import EngineUnavailable
from serving.generation import Generation
from tests.conformance.clients.driver import TOOL_RESULT, Seen
from tests.conformance.material import Material
from tests.fakes import Script, called, thought

SAID = "Revenue grew by 12 %."
PIECES = ("Revenue ", "grew ", "by 12 %.")
THOUGHTS = ("Two bars, ", "the second higher.")
FIGURE = {"value": 12.5, "unit": "billion"}


@dataclass(frozen=True)
class Outcome:
    """`asked` is what reached the engine; None where a real one answers, or the cloud, which say what they like."""

    seen: Seen
    asked: list[Generation] | None
    material: Material

    @property
    def question(self) -> Generation:
        assert self.asked
        return self.asked[0]


Check = Callable[[Outcome], None]


@dataclass(frozen=True)
class Flow:
    """`scripts` are the engine's answers in the order in which the flow asks."""

    check: Check
    scripts: tuple[Script, ...] = (Script(PIECES, input_tokens=90, image_tokens=66),)


def answered(outcome: Outcome) -> None:
    """An answer, its end and its price. What a client does not tell is None."""
    seen = outcome.seen
    assert "text" in seen, seen
    assert seen["text"] == SAID if outcome.asked is not None else seen["text"]
    assert seen["finish"] in ("stop", None)
    if seen["tokens"] is not None and outcome.asked is not None:
        assert seen["tokens"] == [90, 3]
    assert seen.get("total", 93) == 93 or outcome.asked is None
    if outcome.asked is not None:
        assert outcome.material.prompt in _texts(outcome.question) or outcome.material.comparison in _texts(
            outcome.question
        )


def pictured(outcome: Outcome) -> None:
    answered(outcome)
    if outcome.asked is not None:
        (image,) = outcome.question.images
        assert image.content is not None
        assert image.content.data == outcome.material.picture


def compared(outcome: Outcome) -> None:
    """Both pictures reach the engine, in the order in which they were sent."""
    answered(outcome)
    if outcome.asked is not None:
        contents = [image.content for image in outcome.question.images]
        sent = [outcome.material.picture, outcome.material.second]
        assert [content.data for content in contents if content is not None] == sent


def streamed(outcome: Outcome) -> None:
    """In pieces: the text is what they add up to, and there is more than one."""
    pictured(outcome)
    assert len([piece for piece in outcome.seen["pieces"] if piece]) > 1


def grew(outcome: Outcome) -> None:
    """Every piece is the whole text so far."""
    pictured(outcome)
    pieces = outcome.seen["pieces"]
    assert len(pieces) > 1
    assert all(later.startswith(sooner) for sooner, later in itertools.pairwise(pieces))


def filmed(outcome: Outcome) -> None:
    answered(outcome)
    if outcome.asked is not None:
        (video,) = outcome.question.videos
        assert video.content is not None
        assert len(video.content.frames) == 4


def called_back(outcome: Outcome) -> None:
    """The model calls, the client answers the call, the model answers the question."""
    call = _one_call(outcome)
    if outcome.asked is None:
        assert outcome.seen["text"]
        return
    assert TOOL_RESULT in outcome.seen["text"]
    turn, result = outcome.asked[1].messages[-2:]
    assert (turn.role, result.role) == ("assistant", "tool")
    assert turn.tool_calls[0].name == "get_revenue"
    assert json.loads(turn.tool_calls[0].arguments) == {"year": 2024}
    assert turn.tool_calls[0].id == call["id"]
    assert result.tool_call_id in (call["id"], None)  # qwen-agent calls it `id`
    assert _texts(outcome.asked[1])[-1] == TOOL_RESULT


def calling(outcome: Outcome) -> None:
    _one_call(outcome)
    if outcome.asked is not None:
        tools = outcome.question.tools
        assert tools is not None
        assert [tool.name for tool in tools.offered] == ["get_revenue"]


def thought_over(outcome: Outcome) -> None:
    seen = outcome.seen
    assert seen["reasoning"] == "".join(THOUGHTS) if outcome.asked is not None else seen["reasoning"]
    assert seen["text"] == SAID if outcome.asked is not None else seen["text"]
    if outcome.asked is not None:
        assert outcome.question.thinking.enabled is True


def structured(outcome: Outcome) -> None:
    figure = json.loads(outcome.seen["text"])
    assert figure == FIGURE if outcome.asked is not None else isinstance(figure, dict)
    if outcome.asked is not None:
        wanted = outcome.question.response_format
        assert wanted is not None
        assert wanted.kind in ("json_object", "json_schema")


def by_schema(outcome: Outcome) -> None:
    structured(outcome)
    assert set(json.loads(outcome.seen["text"])) == {"value", "unit"}
    if outcome.asked is not None:
        assert outcome.question.response_format is not None
        assert outcome.question.response_format.schema is not None


def shut_out(outcome: Outcome) -> None:
    seen = outcome.seen
    assert seen["status"] in (401, None)
    assert seen["code"] in ("InvalidApiKey", "invalid_api_key", None)
    assert "API" in seen["message"]
    assert not outcome.asked


def refused(outcome: Outcome) -> None:
    seen = outcome.seen
    assert seen["status"] == 400
    assert seen["code"] in ("InvalidParameter", "invalid_parameter_error", None)
    assert "emperature" in seen["message"]
    assert not outcome.asked


def broken(outcome: Outcome) -> None:
    """What came before stays; then the client says that something went wrong."""
    assert outcome.seen["pieces"] == ["Revenue "]
    assert "ModelUnavailable" in str(outcome.seen["code"]) or outcome.seen["message"]


def queued(outcome: Outcome) -> None:
    if outcome.asked is None and outcome.seen.get("code"):
        assert (outcome.seen["status"], outcome.seen["code"]) == (403, "AccessDenied")
        return
    pictured(outcome)
    assert outcome.seen["status"] == "SUCCEEDED"
    assert outcome.seen["listed"]
    # 1.24 cancels by GET, which is no way to
    assert outcome.seen["refusal"] in ("UnsupportedOperation", "InvalidParameter")


def catalogued(outcome: Outcome) -> None:
    assert outcome.seen["found"]
    assert outcome.seen["one"]


def filed(outcome: Outcome) -> None:
    seen = outcome.seen
    assert seen["listed"]
    assert seen["size"] in (len(outcome.material.picture), len(outcome.material.lines))
    assert seen.get("same", True)
    assert seen["deleted"]
    assert seen["gone"] in (400, 404)


def counted(outcome: Outcome) -> None:
    assert outcome.seen["ids"] == outcome.seen["pieces"] == outcome.seen["tokens"] > 0


def worked_through(outcome: Outcome) -> None:
    """Of three lines one is wrong: it has its reason, and the others have their answers."""
    seen = outcome.seen
    assert seen["first"] in ("validating", "in_progress")
    assert seen["last"] == "completed"
    assert seen["counts"] == {"total": 3, "completed": 2, "failed": 1}
    lines = [json.loads(line) for line in seen["output"]]
    assert {line["custom_id"] for line in lines} == {"one", "two"}
    for line in lines:
        assert line["response"]["status_code"] == 200
        assert line["response"]["body"]["choices"][0]["message"]["content"] == "ok"
    (error,) = [json.loads(line) for line in seen["errors"]]
    assert error["custom_id"] == "wrong"
    assert seen["listed"]
    assert {generation.priority for generation in outcome.asked or []} == {"background"}


def _texts(generation: Generation) -> list[str]:
    return [part.text for message in generation.messages for part in message.parts if hasattr(part, "text")]


def _one_call(outcome: Outcome) -> dict[str, Any]:
    (call,) = outcome.seen["calls"]
    arguments = call["arguments"]
    assert call["name"] == "get_revenue"
    assert (json.loads(arguments) if isinstance(arguments, str) else arguments) == {"year": 2024}
    assert call["id"]
    assert outcome.seen["called"] in ("tool_calls", "tool-calls", None)
    return dict(call)


CALL = Script((called("", call_id="call_1", name="get_revenue"), called('{"year": '), called("2024}")))
RESULT = Script(("It was ", TOOL_RESULT, "."), input_tokens=90)
JSON = Script((json.dumps(FIGURE),), input_tokens=90, image_tokens=66)

FLOWS = {
    "chat": Flow(pictured),
    "stream": Flow(streamed),
    "cumulative": Flow(grew),
    "async": Flow(pictured),
    "async stream": Flow(streamed),
    "text path": Flow(answered, (Script(PIECES, input_tokens=90),)),
    "image URL": Flow(pictured),
    "local file": Flow(pictured),
    "two images": Flow(compared),
    "frames": Flow(filmed),
    "video": Flow(filmed),
    "tools": Flow(called_back, (CALL, RESULT)),
    "tools stream": Flow(calling, (CALL,)),
    "thinking": Flow(thought_over, (Script((*map(thought, THOUGHTS), *PIECES), input_tokens=90, image_tokens=66),)),
    "JSON": Flow(structured, (JSON,)),
    "JSON schema": Flow(by_schema, (JSON,)),
    "wrong key": Flow(shut_out, ()),
    "wrong parameter": Flow(refused, ()),
    "broken stream": Flow(broken, (Script(("Revenue ",), error=EngineUnavailable()),)),
    "task": Flow(queued),
    "async task": Flow(queued),
    "models": Flow(catalogued, ()),
    "files": Flow(filed, ()),
    "tokens": Flow(counted, ()),
    "batch": Flow(worked_through, ()),
}
