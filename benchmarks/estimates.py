"""Statistics of latencies, each with how certain it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

_EXACT_BELOW = 2000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and its 95 % confidence interval. None for an end that the sample is too small to give."""

    value: float
    low: float | None
    high: float | None


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value of a sorted sample that at least `share` of it do not exceed: a value that was measured.

    Raises:
        ValueError: the sample is empty.
    """
    if not ordered:
        raise ValueError("no value, no percentile")
    return ordered[max(0, math.ceil(round(share * len(ordered), 9)) - 1)]


def quantile(ordered: Sequence[float], share: float, confidence: float = 0.95) -> Estimate:
    """A percentile with the interval between two order statistics that covers the true one.

    Whatever the distribution, the number of values below the true percentile is binomial: the interval needs no
    assumption but that the values are independent. Where requests queue behind each other it is too narrow.
    """
    count, tail = len(ordered), (1 - confidence) / 2
    low = _rank(count, share, tail)
    high = _rank(count, share, 1 - tail) + 1
    return Estimate(
        percentile(ordered, share),
        ordered[low - 1] if low >= 1 else None,
        ordered[high - 1] if high <= count else None,
    )


def _rank(count: int, share: float, probability: float) -> int:
    """The largest k with P(binomial < k) <= probability, counted from 1."""
    if count > _EXACT_BELOW:
        spread = math.sqrt(count * share * (1 - share))
        return math.floor(NormalDist(count * share, spread).inv_cdf(probability) + 0.5)
    below, term, rank = 0.0, (1 - share) ** count, 0
    log_odds = math.log(share) - math.log1p(-share)
    logs = count * math.log1p(-share)
    while rank <= count:
        term = math.exp(logs)
        if below + term > probability:
            return rank
        below += term
        logs += math.log((count - rank) / (rank + 1)) + log_odds if rank < count else 0.0
        rank += 1
    return count


def mean(values: Sequence[float], batches: int = 20) -> Estimate:
    """The mean with the interval of batch means: neighbours in a run depend on each other, batches hardly.

    Values are in the order of time.
    """
    whole = float(np.mean(values))
    if len(values) < 2 * batches:
        return Estimate(whole, None, None)
    means = [float(part.mean()) for part in np.array_split(np.asarray(values, float), batches)]
    # 2.093: Student's t for 19 degrees of freedom, two-sided 95 %.
    half = 2.093 * float(np.std(means, ddof=1)) / math.sqrt(batches)
    return Estimate(whole, whole - half, whole + half)


def bootstrap(
    values: npt.NDArray[np.float64],
    statistic: Callable[[npt.NDArray[np.float64]], float],
    seed: int = 0,
    rounds: int = 2000,
) -> Estimate:
    """A statistic with its percentile bootstrap interval. Rows are drawn whole, so that pairs stay pairs."""
    rng = np.random.default_rng(seed)
    drawn = [statistic(values[rng.integers(0, len(values), len(values))]) for _ in range(rounds)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Estimate(statistic(values), float(low), float(high))


@dataclass(frozen=True, slots=True)
class Trend:
    """Whether a series of windows goes anywhere.

    Attributes:
        p: of the Mann-Kendall test: how likely such a trend is without one. Below 0.05 it is taken as one.
        change: Sen's slope over all windows, relative to the median.
        variation: standard deviation over mean.
    """

    p: float
    change: float
    variation: float

    @property
    def steady(self) -> bool:
        """No trend, or one that changes less than a tenth over the run."""
        return self.p >= 0.05 or abs(self.change) < 0.1


def trend(series: Sequence[float]) -> Trend:
    """Mann-Kendall over at least eight values, which need no distribution; ties are corrected for."""
    count, values = len(series), np.asarray(series, float)
    at, other = np.triu_indices(count, 1)
    score = float(np.sign(values[other] - values[at]).sum())
    ties = np.unique(values, return_counts=True)[1]
    spread = (count * (count - 1) * (2 * count + 5) - float((ties * (ties - 1) * (2 * ties + 5)).sum())) / 18
    z = 0.0 if spread <= 0 else (score - np.sign(score)) / math.sqrt(spread)
    slope = float(np.median((values[other] - values[at]) / (other - at))) if count > 1 else 0.0
    middle, average = float(np.median(values)), float(values.mean())
    return Trend(
        p=2 * (1 - NormalDist().cdf(abs(z))),
        change=slope * (count - 1) / middle if middle else 0.0,
        variation=float(values.std() / average) if average else 0.0,
    )
