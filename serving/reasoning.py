from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from serving.errors import InvalidRequest, ThinkingUnsupported

Mode: TypeAlias = Literal["never", "hybrid", "always"]


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Whether a model thinks before it answers: never, when asked to, or always; `budget` is the most tokens that it
    may think."""

    mode: Mode
    budget: int


NEVER = Reasoning("never", 81_920)


def by_name(name: str) -> Mode | None:
    """What the family's names say: those that end in -thinking and -instruct do one thing, the cloud's plus and flash
    can do both. None for any other name."""
    lowered = name.lower()
    if "thinking" in lowered:
        return "always"
    if "instruct" in lowered:
        return "never"
    return "hybrid" if "vl-plus" in lowered or "vl-flash" in lowered else None


def of(setting: Mode | None, served: str | None, asked: str, budget: int) -> Reasoning:
    """How the model thinks: as the setting says, else as the name of the model that is `served` does, else as the name
    that the client `asked` for does."""
    mode = setting or by_name(served or "") or by_name(asked) or "never"
    return replace(NEVER, mode=mode, budget=budget)


def enabled(wanted: bool | None, thinks: Reasoning, model: str) -> bool:
    """Whether to think. Raises for what the model cannot do."""
    if thinks.mode == "never" and wanted:
        raise ThinkingUnsupported(model)
    if thinks.mode == "always" and wanted is False:
        raise InvalidRequest(
            "The value of the enable_thinking parameter is restricted to True.", param="enable_thinking"
        )
    return thinks.mode == "always" or bool(wanted)
