"""What a drill found, and whether it is what was to be expected."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.estimates import percentile
from benchmarks.record import Record
from benchmarks.report import Objective, Report, report

OBJECTIVE = Objective({"e2e": 2.0})
"""What is well: answered within two seconds of when the request was due."""

QUICK_S = 5.0
"""Within which whoever is refused has to know it."""

WELL_WITHIN_S = 10.0
"""After the repair."""


@dataclass(frozen=True)
class Check:
    """One expectation in words, with the figures that were found, and whether they met it."""

    words: str
    met: bool


@dataclass(frozen=True)
class Leftovers:
    """What clients that went away leave behind, so many `seconds` after the load's end.

    Generations that the gateway still has, and the engine; and how many answers the engine stopped meanwhile because
    their client had left.
    """

    gateway: int
    engine: int
    stopped: int
    seconds: float


@dataclass(frozen=True)
class Finding:
    """A drill's three parts, and the seconds from the repair to the last bad answer; None: it was never well again.

    `before` has ended when things broke, `after` was due when they were mended, and `during` is all between.
    """

    before: Report
    during: Report
    after: Report
    recovered_s: float | None
    checks: list[Check] = field(default_factory=list)

    @property
    def as_expected(self) -> bool:
        return all(check.met for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        parts = {"before": self.before, "during": self.during, "after": self.after}
        checks = [asdict(check) for check in self.checks]
        return {"recovered_s": self.recovered_s, "checks": checks, **{n: part.to_dict() for n, part in parts.items()}}


@dataclass(frozen=True)
class Seen:
    """All that a drill's expectations can look at. `third` is when things broke, in seconds."""

    records: Sequence[Record]
    third: float
    leftovers: Leftovers

    @property
    def during(self) -> list[Record]:
        return [record for record in self.records if part(record, self.third) == 1]


Expectation = Callable[[Finding, Seen], Check]


def part(record: Record, third: float) -> int:
    """0, 1 or 2: ended before things broke, was about while they were broken, was due after the repair."""
    if record.end / 1e9 <= third:
        return 0
    return 1 if record.intended / 1e9 < 2 * third else 2


def found(seen: Seen, expectations: Sequence[Expectation] = ()) -> Finding:
    """Raises ValueError: not one request in one of the parts."""
    third, parts = seen.third, ([], [], [])  # type: tuple[float, tuple[list[Record], list[Record], list[Record]]]
    for record in seen.records:
        parts[part(record, third)].append(record)
    before, during, after = (report(each, objective=OBJECTIVE) for each in parts)
    late = [record.intended / 1e9 - 2 * third for record in parts[2]]
    bad = [at for at, record in zip(late, parts[2], strict=True) if not OBJECTIVE.met(record)]
    recovered = max(bad, default=0.0)
    finding = Finding(before, during, after, None if bad and recovered >= max(late) else recovered)
    finding.checks.extend(expected(finding, seen) for expected in expectations)
    return finding


def fine_before(finding: Finding, seen: Seen) -> Check:
    good = finding.before.good_share
    return Check(f"before: {good:.1%} of the requests well, at least 99 % expected", good >= 0.99)


def well_again(finding: Finding, seen: Seen) -> Check:
    after = finding.recovered_s
    if after is None:
        return Check("not well again before the end", False)
    return Check(
        f"well again {after:.1f} s after the repair, at most {WELL_WITHIN_S:g} expected", after <= WELL_WITHIN_S
    )


def refused_quickly(finding: Finding, seen: Seen) -> Check:
    """Whoever gets no answer knows it soon, by an error of the API and not by a connection that breaks or waits."""
    failed = [record for record in seen.during if not record.ok]
    if not failed:
        return Check("no request failed, though some had to", False)
    slowest = max(record.end - record.sent for record in failed) / 1e9
    silent = sum(record.status == 0 for record in failed)
    words = f"{len(failed)} refused, the slowest after {slowest:.2f} s, at most {QUICK_S:g} expected"
    return Check(f"{words}; {silent} without an answer, none expected", slowest <= QUICK_S and not silent)


def told_to_come_back(finding: Finding, seen: Seen) -> Check:
    """An engine that is busy is no fault of the request: 429, which clients try again, and no other error."""
    failed = [record.status for record in seen.during if not record.ok]
    others = ", ".join(sorted({str(status) for status in failed if status != 429}))
    words = f"{len(failed)} requests were refused; with other statuses than 429: {others or 'none'}"
    return Check(f"{words}, none expected", bool(failed) and not others)


def none_failed(finding: Finding, seen: Seen) -> Check:
    failed = sum(not record.ok for record in seen.records)
    return Check(f"{failed} requests failed, none expected", failed == 0)


def stall_shows(finding: Finding, seen: Seen) -> Check:
    """From when requests were due the p99 has the stall; from when they were sent it has not (coordinated omission)."""
    due = percentile(sorted(record.end - record.intended for record in seen.records), 0.99) / 1e9
    sent = percentile(sorted(record.end - record.sent for record in seen.records), 0.99) / 1e9
    words = f"p99 over all is {due:.2f} s from when requests were due, {sent:.2f} s from when they were sent"
    return Check(
        f"{words}: a stall of {seen.third:g} s is to show in the first alone",
        due >= 0.7 * seen.third and sent <= 0.3 * seen.third,
    )


def others_unharmed(finding: Finding, seen: Seen) -> Check:
    """Requests with their images inside, while others wait for a slow host."""
    inside = [record for record in seen.during if record.name != "linked"]
    good = sum(OBJECTIVE.met(record) for record in inside) / max(1, len(inside))
    words = f"{good:.1%} of {len(inside)} requests with images inside were well meanwhile"
    return Check(f"{words}, at least 99 % expected", bool(inside) and good >= 0.99)


def linked_answered(finding: Finding, seen: Seen) -> Check:
    linked = [record for record in seen.records if record.name == "linked"]
    answered = sum(record.ok for record in linked)
    return Check(
        f"{answered} of {len(linked)} requests with slow images answered", bool(linked) and answered == len(linked)
    )


def permits_return(finding: Finding, seen: Seen) -> Check:
    left = seen.leftovers
    words = f"the gateway has {left.gateway} generations in flight, the engine {left.engine} open, none expected"
    return Check(f"{left.seconds:.1f} s after the end {words}", left.gateway == left.engine == 0)


def engine_stops(finding: Finding, seen: Seen) -> Check:
    """What nobody reads is not generated."""
    gone = sum(record.outcome == "HungUp" for record in seen.records)
    stopped = seen.leftovers.stopped
    words = f"{gone} clients left, the engine stopped {stopped} of their answers"
    return Check(f"{words}, at least 90 % expected", gone > 0 and 0.9 * gone <= stopped <= gone)
