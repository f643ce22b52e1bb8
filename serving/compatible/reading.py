from __future__ import annotations

from dataclasses import replace

import msgspec

from serving.chat import Question
from serving.compatible import schema, translate
from serving.compatible.rendering import Rendering
from serving.dashscope.tasks import wants_oss
from serving.dashscope.translate import Rules
from serving.endpoint import Call
from serving.generation import Caller, Timeline
from serving.settings import Settings


class Reading:
    """Reads chat completion requests. Whether to stream is said by the body alone; headers do not matter."""

    def __init__(self, settings: Settings) -> None:
        self._rules = Rules.of(settings)

    def begin(self, call: Call) -> None:
        pass

    async def read(self, call: Call, body: bytes) -> Question:
        wire = schema.parse(body)
        call.stream = translate.wants_stream(wire)
        question = self._question(wire, call.exchange.request_id, call.caller, call.timeline)
        return replace(question, generation=replace(question.generation, resolve_oss=wants_oss(call)))

    def question(self, body: msgspec.Raw, *, request_id: str, caller: Caller, timeline: Timeline) -> Question:
        """A request that came by another way, without headers; its `stream` does not count. Raises as `read` does."""
        return self._question(schema.parse(body), request_id, caller, timeline)

    def _question(self, wire: schema.WireRequest, request_id: str, caller: Caller, timeline: Timeline) -> Question:
        include_usage = translate.wants_usage(wire)
        generation = translate.to_generation(wire, self._rules, request_id=request_id, caller=caller, timeline=timeline)
        return Question(generation, Rendering(request_id, generation.model, include_usage))
