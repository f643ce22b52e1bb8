from __future__ import annotations

from dataclasses import dataclass

from serving import reasoning
from serving.dashscope import messages, parameters
from serving.dashscope.messages import Form
from serving.dashscope.parameters import Parameters
from serving.dashscope.schema import WireRequest
from serving.errors import EmptyInput, EmptyModel, InvalidRequest, ModelNotFound
from serving.generation import Caller, Generation, Message, Text, Timeline
from serving.reasoning import Mode, Reasoning
from serving.settings import Settings

NO_JSON_WORD = "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'."


@dataclass(frozen=True, slots=True)
class Rules:
    """What this server answers to. `thinks` None goes by the names of the models, that of the `served` one first."""

    models: tuple[str, ...]
    max_output_tokens: int
    thinks: Mode | None = None
    served: str | None = None
    max_thinking_tokens: int = reasoning.NEVER.budget

    @classmethod
    def of(cls, settings: Settings) -> Rules:
        return cls(
            settings.served_models,
            settings.max_output_tokens,
            settings.thinking,
            settings.model,
            settings.max_thinking_tokens,
        )

    def reasoning(self, model: str) -> Reasoning:
        return reasoning.of(self.thinks, self.served, model, self.max_thinking_tokens)


@dataclass(frozen=True, slots=True)
class Translated:
    """`incremental` is whether frames are increments of the answer, `text_result` whether the text path answers in its
    legacy form, `image_sizes` whether the sizes of the images are told."""

    generation: Generation
    incremental: bool
    text_result: bool = False
    image_sizes: bool = False


def to_generation(
    wire: WireRequest,
    form: Form,
    rules: Rules,
    *,
    request_id: str,
    caller: Caller,
    timeline: Timeline,
    stream: bool = False,
    resolve_oss: bool = False,
) -> Translated:
    """Raises `InvalidRequest` for what the model cannot be asked."""
    if not wire.model:
        raise EmptyModel
    if wire.model not in rules.models:
        raise ModelNotFound(wire.model, rules.models)
    if wire.input is None:
        raise InvalidRequest(messages.NEITHER) if wire.misplaced else EmptyInput
    thinks = rules.reasoning(wire.model)
    options = parameters.read(
        wire.parameters or {}, model=wire.model, max_output_tokens=rules.max_output_tokens, thinks=thinks
    )
    asked = messages.read(
        wire.input, form, high_resolution=options.high_resolution, reasoning=options.preserve_thinking
    )
    text_result = options.text_result and form == "text"
    _refuse_combinations(options, asked, text_result=text_result, stream=stream)
    generation = Generation(
        request_id,
        caller,
        wire.model,
        asked,
        options.sampling,
        options.response_format,
        timeline,
        options.tools,
        options.thinking,
        resolve_oss=resolve_oss,
    )
    return Translated(generation, options.incremental is not False, text_result, options.image_sizes)


def _refuse_combinations(options: Parameters, asked: tuple[Message, ...], *, text_result: bool, stream: bool) -> None:
    """Parameters that exclude each other, and those that want something of the messages."""
    if options.response_format and options.response_format.kind == "json_object" and not _mentions_json(asked):
        raise InvalidRequest(NO_JSON_WORD)
    if options.sampling.n > 1 and text_result:
        raise InvalidRequest('The result_format parameter must be "message" when n is greater than 1')
    if options.tools and text_result:
        raise InvalidRequest('The result_format parameter must be "message" when tools are given')
    if not options.thinking.enabled:
        return
    if stream and options.incremental is False:
        raise InvalidRequest('The incremental_output parameter must be "true" when enable_thinking is true')
    if text_result:
        raise InvalidRequest('The result_format parameter must be "message" when enable_thinking is true')
    if options.response_format:
        raise InvalidRequest("Json mode response is not supported when enable_thinking is true")
    if options.tools and options.tools.choice not in ("auto", "none"):
        raise InvalidRequest(
            "The tool_choice parameter does not support being set to required or object in thinking mode"
        )
    if asked[-1].partial:
        raise InvalidRequest("A partial message cannot be continued when enable_thinking is true")


def _mentions_json(asked: tuple[Message, ...]) -> bool:
    texts = (part.text for message in asked for part in message.parts if isinstance(part, Text))
    return any("json" in text.lower() for text in texts)
