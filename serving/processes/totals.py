"""The metrics of several processes as those of one server."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

GREATEST = frozenset(
    {
        "homescope_queue_expected_seconds",
        "homescope_replica_ready",
        "homescope_jobs",
        "homescope_jobs_oldest_seconds",
        "homescope_webhooks_waiting",
    }
)
"""Gauges of which the greatest is told: what the processes share, of which each tells the whole, and what does not add
up. Of the others each tells its part."""

Key: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]


class Totals:
    """Adds up what processes told last. Counters never fall: what a process counted that ended stays in the sum."""

    def __init__(self) -> None:
        self._told: dict[int, list[Metric]] = {}
        self._families: dict[str, Metric] = {}
        """One of each name, for what is said of it."""
        self._ended: dict[str, dict[Key, float]] = {}

    def tell(self, process: int, text: str) -> None:
        """What a process, known by a number that no later one has, answers to /metrics."""
        self._told[process] = list(text_string_to_metric_families(text))
        self._families |= {family.name: family for family in self._told[process]}

    def ended(self, process: int) -> None:
        for family in self._told.pop(process, []):
            sums = self._ended.setdefault(family.name, {})
            for sample in family.samples:
                if family.type in ("counter", "histogram") and not sample.name.endswith("_created"):
                    sums[_key(sample)] = sums.get(_key(sample), 0.0) + sample.value

    def text(self, further: Iterable[Metric] = ()) -> bytes:
        """In the exposition format of Prometheus."""
        return generate_latest(_Fixed([*self._merged(), *further]))

    def _merged(self) -> Iterator[Metric]:
        sums = {name: dict(self._ended.get(name, {})) for name in self._families}
        for told in self._told.values():
            for family in told:
                _add(sums[family.name], family)
        for name, family in self._families.items():
            merged = Metric(name, family.documentation, family.type)
            merged.samples = [Sample(key[0], dict(key[1]), value) for key, value in sums[name].items()]
            yield merged


def _add(sums: dict[Key, float], family: Metric) -> None:
    for sample in family.samples:
        key = _key(sample)
        if key not in sums:
            sums[key] = sample.value
        elif family.name in GREATEST:
            sums[key] = max(sums[key], sample.value)
        elif sample.name.endswith("_created"):
            sums[key] = min(sums[key], sample.value)
        else:
            sums[key] += sample.value


class _Fixed(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def _key(sample: Sample) -> Key:
    return sample.name, tuple(sorted(sample.labels.items()))


def told(name: str, help_text: str, values: Mapping[str, float], label: str) -> Metric:
    """A gauge of the server itself."""
    family = Metric(name, help_text, "gauge")
    family.samples = [Sample(name, {label: key}, value) for key, value in values.items()]
    return family
