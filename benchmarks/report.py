"""Everything that is said about a run, made from its raw records.

e2e        last byte, from the intended start (`e2e`) and from the send (`e2e_from_send`)
ttft       first piece of text, from either
itl        between two pieces of text        tpot   (end of text - first piece) / (output tokens - 1)
goodput    requests a second that met the objective
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.estimates import Estimate, Trend, mean, quantile, trend
from benchmarks.record import Record

SHARES = (0.5, 0.9, 0.99, 0.999)
LAG_LIMIT_MS = 5.0
RATE_LIMIT = 0.99
_WINDOWS = 16
_LIMIT = re.compile(r"\s*(ttft|tpot|itl|e2e)\s*<=?\s*([\d.]+)\s*(ms|s)?\s*")


class BadObjective(Exception):
    """Raised when an objective is not of the form ttft<=2s,tpot<=0.1s."""


@dataclass(frozen=True)
class Objective:
    """What a request has to keep to be counted as good, in seconds; latencies are from the intended start.

    `share` of all requests have to, for a rate to meet it.
    """

    limits: Mapping[str, float] = field(default_factory=dict)
    share: float = 0.99

    @classmethod
    def parsed(cls, text: str, share: float = 0.99) -> Objective:
        """From `ttft<=2s,e2e<=12s`. Raises BadObjective."""
        limits = {}
        for part in filter(None, text.split(",")):
            found = _LIMIT.fullmatch(part)
            if found is None:
                raise BadObjective(f"{part!r} is not of the form e2e<=12s; known are ttft, tpot, itl and e2e")
            limits[found[1]] = float(found[2]) / (1000 if found[3] == "ms" else 1)
        return cls(limits, share)

    def met(self, record: Record) -> bool:
        """Failed requests meet nothing. What a request has none of, such as a first token, cannot be missed."""
        if not record.ok:
            return False
        values = {name: measure(record) for name, measure in _OF_RECORD.items()}
        values["itl"] = max(record.gaps) / 1e6 if record.gaps else None
        return all((value := values[name]) is None or value <= limit for name, limit in self.limits.items())

    def __str__(self) -> str:
        limits = ", ".join(f"{name} <= {limit:g} s" for name, limit in self.limits.items())
        return f"{limits or 'answered'} for {self.share:.1%} of the requests"


def _tpot(record: Record) -> float | None:
    if record.first is None or record.output_tokens < 2:
        return None
    return sum(record.gaps) / 1e6 / (record.output_tokens - 1)


def _since(moment: Callable[[Record], int | None], start: Callable[[Record], int]) -> Callable[[Record], float | None]:
    def seconds(record: Record) -> float | None:
        value = moment(record)
        return None if value is None else (value - start(record)) / 1e9

    return seconds


_OF_RECORD: dict[str, Callable[[Record], float | None]] = {
    "ttft": _since(lambda record: record.first, lambda record: record.intended),
    "ttft_from_send": _since(lambda record: record.first, lambda record: record.sent),
    "e2e": _since(lambda record: record.end, lambda record: record.intended),
    "e2e_from_send": _since(lambda record: record.end, lambda record: record.sent),
    "tpot": _tpot,
    "upload": _since(lambda record: record.uploaded, lambda record: record.sent),
}
"""Seconds of one answered request."""


@dataclass(frozen=True)
class Distribution:
    """Of one latency, in seconds. `percentiles` by their name, such as p99.9."""

    count: int
    mean: Estimate
    percentiles: Mapping[str, Estimate]
    most: float


@dataclass(frozen=True)
class Report:
    """One run. Rates are per second of `seconds`, from the first intended start to the last end."""

    requests: int
    ok: int
    seconds: float
    latencies: Mapping[str, Distribution]
    rates: Mapping[str, float]
    tokens: Mapping[str, int]
    outcomes: Mapping[str, int]
    objective: str
    good_share: float
    meets: bool
    score: Estimate | None
    steady: Mapping[str, Trend]
    lag_ms: float
    invalid: Sequence[str]
    notes: Sequence[str]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def report(
    records: Sequence[Record], run: Mapping[str, Any] | None = None, objective: Objective | None = None
) -> Report:
    """Raises ValueError: there is no record."""
    if not records:
        raise ValueError("a run without a request has nothing to report")
    run, objective = run or {}, objective or Objective()
    ordered = sorted(records, key=lambda record: record.intended)
    answered = [record for record in ordered if record.ok]
    seconds = (max(record.end for record in ordered) - ordered[0].intended) / 1e9
    good = sum(objective.met(record) for record in ordered)
    lag = quantile(sorted(max(0.0, record.lag / 1e6) for record in ordered), 0.99).value
    steady = _steady(answered)
    return Report(
        requests=len(ordered),
        ok=len(answered),
        seconds=seconds,
        latencies=_latencies(answered),
        rates=_rates(answered, seconds) | {"goodput": good / seconds, **_offered(ordered)},
        tokens={name: sum(getattr(each, name) for each in answered) for name in _TOKENS},
        outcomes=dict(Counter(record.outcome for record in ordered).most_common()),
        objective=str(objective),
        good_share=good / len(ordered),
        meets=good / len(ordered) >= objective.share,
        score=_score(answered),
        steady=steady,
        lag_ms=lag,
        invalid=_invalid(ordered, run, lag),
        notes=_notes(ordered, steady),
    )


_TOKENS = ("input_tokens", "output_tokens", "image_tokens")


def distribution(values: Sequence[float]) -> Distribution:
    """Of values in the order of time."""
    ordered = sorted(values)
    percentiles = {f"p{share * 100:g}": quantile(ordered, share) for share in SHARES}
    return Distribution(len(ordered), mean(values), percentiles, ordered[-1])


def _latencies(answered: Sequence[Record]) -> dict[str, Distribution]:
    found = {}
    for name, measure in _OF_RECORD.items():
        values = [value for record in answered if (value := measure(record)) is not None]
        if values:
            found[name] = distribution(values)
    gaps = [gap / 1e6 for record in answered for gap in record.gaps]
    return found | ({"itl": distribution(gaps)} if gaps else {})


def _rates(answered: Iterable[Record], seconds: float) -> dict[str, float]:
    answered = list(answered)
    return {
        "requests": len(answered) / seconds,
        "images": sum(record.images for record in answered) / seconds,
        "megapixels": sum(record.pixels for record in answered) / 1e6 / seconds,
        "vision_tokens": sum(record.image_tokens for record in answered) / seconds,
        "output_tokens": sum(record.output_tokens for record in answered) / seconds,
        "upload_mb": sum(record.bytes_sent for record in answered) / 1e6 / seconds,
    }


def _offered(ordered: Sequence[Record]) -> dict[str, float]:
    """What the schedule wanted to be sent each second, and what was."""
    intended = (ordered[-1].intended - ordered[0].intended) / 1e9
    sent = [record.sent for record in ordered]
    took = (max(sent) - min(sent)) / 1e9
    steps = len(ordered) - 1
    return {"intended": steps / intended, "sent": steps / took} if intended > 0 and took > 0 else {}


def _score(answered: Sequence[Record]) -> Estimate | None:
    scores = [record.score for record in answered if record.score is not None]
    return mean(scores) if scores else None


def _steady(answered: Sequence[Record]) -> dict[str, Trend]:
    """Medians of equally many requests in the order of time, and answers in equally long times."""
    if len(answered) < 4 * _WINDOWS:
        return {}
    size = len(answered) // _WINDOWS
    windows = [answered[at * size : (at + 1) * size] for at in range(_WINDOWS)]
    medians = [quantile(sorted((r.end - r.intended) / 1e9 for r in window), 0.5).value for window in windows]
    first, last = answered[0].intended, answered[-1].intended
    step = max(1, (last - first) // _WINDOWS)
    counts = Counter(min(_WINDOWS - 1, (record.end - first) // step) for record in answered if record.end <= last)
    return {"latency": trend(medians), "throughput": trend([counts[at] for at in range(1, _WINDOWS)])}


def _invalid(ordered: Sequence[Record], run: Mapping[str, Any], lag: float) -> list[str]:
    """Why the numbers say more about the generator than about the server."""
    reasons = []
    if lag > LAG_LIMIT_MS:
        reasons.append(f"the generator lagged: p99 {lag:.1f} ms behind its schedule, limit {LAG_LIMIT_MS:g} ms")
    delay = float(run.get("loop_delay_p99_ms", 0.0))
    if delay > LAG_LIMIT_MS:
        reasons.append(f"the generator's event loop was late: p99 {delay:.1f} ms, limit {LAG_LIMIT_MS:g} ms")
    rates = _offered(ordered)
    if rates and rates["sent"] < RATE_LIMIT * rates["intended"]:
        share = rates["sent"] / rates["intended"]
        why = (
            "the limit of requests in flight held requests back" if any(r.held for r in ordered) else "sends were late"
        )
        reasons.append(f"sent {share:.1%} of the intended rate, limit {RATE_LIMIT:.0%}: {why}")
    return reasons


def _notes(ordered: Sequence[Record], steady: Mapping[str, Trend]) -> list[str]:
    """What a reader should know before quoting a number."""
    notes = [
        f"{name} is not steady: {one.change:+.0%} over the run (p = {one.p:.3f})"
        for name, one in steady.items()
        if not one.steady
    ]
    if not steady:
        notes.append(f"too few answers for a steady-state test; it takes {4 * _WINDOWS}")
    after = (max(record.end for record in ordered) - ordered[-1].intended) / 1e9
    during = max((ordered[-1].intended - ordered[0].intended) / 1e9, 1e-9)
    if after > 0.25 * during:
        notes.append(f"answers came for {after:.1f} s after the last request was due: the server did not keep up")
    return notes
