"""The highest rate that meets an objective, by bisection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from benchmarks.page import page, table
from benchmarks.plots import Series, plot
from benchmarks.report import Report


@dataclass(frozen=True)
class Trial:
    """One rate that was tried."""

    rate: float
    report: Report

    @property
    def meets(self) -> bool:
        """An invalid run shows nothing, least of all that a server can."""
        return self.report.meets and not self.report.invalid

    @property
    def p99_s(self) -> float:
        e2e = self.report.latencies.get("e2e")
        return e2e.percentiles["p99"].value if e2e else float("inf")


@dataclass(frozen=True)
class Capacity:
    """What a search found: the highest rate that met the objective (0: none did), and the lowest that did not."""

    trials: Sequence[Trial]

    @property
    def highest(self) -> float:
        lowest = self.lowest_missed
        return max((t.rate for t in self.trials if t.meets and (lowest is None or t.rate < lowest)), default=0.0)

    @property
    def lowest_missed(self) -> float | None:
        return min((trial.rate for trial in self.trials if not trial.meets), default=None)

    def to_dict(self) -> dict[str, Any]:
        trials = sorted(self.trials, key=lambda trial: trial.rate)
        return {
            "requests_per_second": self.highest,
            "lowest_missed": self.lowest_missed,
            "trials": [{"rate": t.rate, "meets": t.meets, "report": t.report.to_dict()} for t in trials],
        }


async def search(
    trial: Callable[[float], Awaitable[Report]], low: float, high: float, precision: float = 0.05, most: int = 12
) -> Capacity:
    """Doubles from `low` until a rate misses (or `high` is reached), then halves what is between.

    Args:
        trial: runs a load at a rate, in requests a second.
        precision: ends when the bounds are this near, relative to the lower one.
        most: trials at most.
    """
    trials: list[Trial] = []
    rate, good, bad = low, 0.0, None
    while len(trials) < most:
        trials.append(Trial(rate, await trial(rate)))
        if trials[-1].meets:
            good = rate
        else:
            bad = rate
        if good >= high or (bad is not None and (bad - good) <= precision * max(good, low / 8)):
            break
        rate = min(high, rate * 2) if bad is None else (good + bad) / 2
    return Capacity(trials)


def capacity_page(found: Capacity, title: str) -> str:
    """The curve and the trials as one HTML file."""
    trials = sorted(found.trials, key=lambda trial: trial.rate)
    answered = [trial for trial in trials if trial.report.ok]
    latency = [
        Series(name, [(t.rate, t.report.latencies["e2e"].percentiles[name].value) for t in answered])
        for name in ("p50", "p99")
    ]
    goodput = [
        Series("good", [(t.rate, t.report.rates["goodput"]) for t in trials]),
        Series("answered", [(t.rate, t.report.rates["requests"]) for t in trials]),
    ]
    rows = [
        (f"{t.rate:.3g}", "meets" if t.meets else "INVALID" if t.report.invalid else "misses", f"{t.p99_s:.3f}",
         f"{t.report.rates['goodput']:.3g}", f"{t.report.good_share:.1%}", "; ".join(t.report.invalid))
        for t in trials
    ]  # fmt: skip
    head = ("requests/s", "objective", "p99 s", "goodput/s", "good", "")
    objective = escape(trials[0].report.objective)
    return page(
        title,
        f"<h1>{escape(title)}</h1><p>highest rate that meets its objective: <b>{found.highest:.3g} requests/s</b></p>"
        f'<p class="soft">{objective}</p><div class="plots">'
        f"{plot('Latency against rate', 'requests/s offered', 'seconds', latency)}"
        f"{plot('Goodput against rate', 'requests/s offered', 'requests/s', goodput)}</div>"
        f"<h2>Trials</h2>{table(head, rows)}",
    )
