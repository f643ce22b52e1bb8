"""Charts of reports as work of a pipeline, kind `report`: the caption comes as the prompt, one answer per chart."""

from __future__ import annotations

import time
from functools import cache
from typing import Any

from client.errors import ConnectionFailed, HomescopeError
from client.finance.reading import FIGURES, PARAMETERS, PROMPT_VERSION, WORDS, Reading
from client.finance.rules import Rule, alerts_of, read_rules
from client.finance.series import Series, series_of, words_flags
from client.models import Answer, Done
from client.pipeline.models import Work
from client.session import Session


async def answer(session: Session, work: Work, image: bytes, idempotency_key: str) -> Done:
    """Reads a chart as `homescope report` does: figures, analysis, checks, the built-in alert rules.

    Returns:
        `value` is {"series": `Series`, "alerts": [`Alert`, ...], "words", "prompt_version"}, JSON; `answer` the figures
        in the model's words. `usage` counts both questions.

    Raises:
        HomescopeError: as `Session.ask`, about the figures. They stand without the analysis.
    """
    began = time.perf_counter()
    figures = await session.ask(
        image, FIGURES, model=work.model, schema=Reading, parameters=PARAMETERS, idempotency_key=idempotency_key
    )
    words = await _words(session, work, image, idempotency_key)
    usage = figures.usage if words is None else figures.usage + words.usage
    return Done(
        file=f"{work.document} {work.label}",
        key=work.key,
        answer=figures.text,
        value=_value(figures.value, work.prompt, words.text if words else ""),
        finish_reason=figures.finish_reason,
        usage=usage,
        request_id=figures.request_id,
        model=figures.model,
        seconds=round(time.perf_counter() - began, 3),
        attempts=1,
        flaw=figures.flaw,
        mended=figures.mended,
    )


async def _words(session: Session, work: Work, image: bytes, idempotency_key: str) -> Answer | None:
    try:
        return await session.ask(image, WORDS, model=work.model, parameters=PARAMETERS, idempotency_key=idempotency_key)
    except HomescopeError as error:
        if error.fatal or isinstance(error, ConnectionFailed):
            raise
        return None


def _value(reading: Reading, caption: str, words: str) -> dict[str, Any]:
    series: Series = series_of(reading, caption)
    series = series.model_copy(update={"flags": (*series.flags, *words_flags(words, reading))})
    alerts = [alert.model_dump(mode="json") for alert in alerts_of(series, _rules())]
    shown = series.model_dump(mode="json")
    return {"series": shown, "alerts": alerts, "words": words, "prompt_version": PROMPT_VERSION}


@cache
def _rules() -> tuple[Rule, ...]:
    return read_rules()
