from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from client import wire
from client.models import Answer

REPETITION_PENALTY = 1.1
"""For a second try at an answer that went round in circles; the parameter's usual values are 1.0 to 1.2."""


def repair(body: Mapping[str, Any], answer: Answer, problem: str) -> dict[str, Any]:
    """The one request that may mend an answer: with the validation error, or less inclined to repeat itself."""
    if answer.flaw == "repeats":
        return {**body, "parameters": {"repetition_penalty": REPETITION_PENALTY} | body["parameters"]}
    question = (
        f"Your answer cannot be used: {problem}. Answer the question again, with corrected JSON and nothing else."
    )
    return wire.continued(body, answer.text, question)
