"""Two runs over the same questions: is the one at least 99 % as good as the other?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.estimates import Estimate, bootstrap


@dataclass(frozen=True)
class Paired:
    """Scores of two runs over the questions that both were asked.

    Attributes:
        difference: candidate minus baseline.
        ratio: candidate over baseline.
        better, worse: questions on which the candidate scored more, or less.
        required: the ratio that it has to reach.
    """

    questions: int
    baseline: float
    candidate: float
    difference: Estimate
    ratio: Estimate
    better: int
    worse: int
    required: float

    @property
    def passes(self) -> bool:
        """MLPerf's rule: the measured ratio counts, and its interval says how much that is worth."""
        return self.ratio.value >= self.required

    @property
    def certain(self) -> bool:
        """Whether the whole interval is on one side of what is required; otherwise more questions are needed."""
        low, high = self.ratio.low, self.ratio.high
        return low is not None and high is not None and (low >= self.required or high < self.required)


def paired(baseline: Mapping[str, float], candidate: Mapping[str, float], required: float = 0.99) -> Paired:
    """Compares scores by question. An answer that failed has a score of 0, and is no gap in the comparison.

    Raises:
        ValueError: no question is in both.
    """
    names = sorted(baseline.keys() & candidate.keys())
    if not names:
        raise ValueError("no question is in both runs")
    pairs = np.array([[baseline[name], candidate[name]] for name in names], dtype=np.float64)
    return Paired(
        questions=len(names),
        baseline=float(pairs[:, 0].mean()),
        candidate=float(pairs[:, 1].mean()),
        difference=bootstrap(pairs, lambda drawn: float((drawn[:, 1] - drawn[:, 0]).mean())),
        ratio=bootstrap(pairs, _ratio),
        better=int((pairs[:, 1] > pairs[:, 0]).sum()),
        worse=int((pairs[:, 1] < pairs[:, 0]).sum()),
        required=required,
    )


def _ratio(pairs: np.typing.NDArray[np.float64]) -> float:
    """1 where neither got anything right: they are alike."""
    baseline, candidate = float(pairs[:, 0].sum()), float(pairs[:, 1].sum())
    if baseline == 0:
        return 1.0 if candidate == 0 else float("inf")
    return candidate / baseline
