from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import SecretStr

from serving import settings as reading
from serving.processes.share import check, environment, share
from serving.processes.totals import Totals
from serving.settings import Settings, SettingsError


class Process:
    """The metrics of one process, as the real library writes them."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self.requests = Counter("homescope_requests", "r", ("model",), registry=registry)
        self.seconds = Histogram("homescope_stage_seconds", "s", buckets=(1, 5), registry=registry)
        self.in_flight = Gauge("homescope_in_flight", "f", registry=registry)
        self.jobs = Gauge("homescope_jobs", "j", ("state",), registry=registry)
        self.wait = Gauge("homescope_queue_expected_seconds", "w", registry=registry)
        self._registry = registry

    def text(self) -> str:
        return generate_latest(self._registry).decode()


def lines(totals: Totals) -> set[str]:
    return {line for line in totals.text().decode().splitlines() if not line.startswith("#") and "_created" not in line}


def test_counters_and_parts_are_added_and_what_is_shared_is_not() -> None:
    totals = Totals()
    for number, process in enumerate((Process(), Process())):
        process.requests.labels("m").inc(3)
        process.seconds.observe(2)
        process.in_flight.set(4)
        process.jobs.labels("waiting").set(7)
        process.wait.set(number)
        totals.tell(number, process.text())
    assert {
        'homescope_requests_total{model="m"} 6.0',
        'homescope_stage_seconds_bucket{le="1.0"} 0.0',
        'homescope_stage_seconds_bucket{le="5.0"} 2.0',
        'homescope_stage_seconds_bucket{le="+Inf"} 2.0',
        "homescope_stage_seconds_count 2.0",
        "homescope_stage_seconds_sum 4.0",
        "homescope_in_flight 8.0",
        'homescope_jobs{state="waiting"} 7.0',
        "homescope_queue_expected_seconds 1.0",
    } == lines(totals)
    assert "# TYPE homescope_requests_total counter" in totals.text().decode()
    assert "# TYPE homescope_stage_seconds histogram" in totals.text().decode()


def test_counters_do_not_fall_when_a_process_is_replaced() -> None:
    totals, first, second = Totals(), Process(), Process()
    first.requests.labels("m").inc(5)
    first.in_flight.set(9)
    totals.tell(1, first.text())
    totals.ended(1)
    totals.tell(2, second.text())
    assert "homescope_in_flight 0.0" in lines(totals)
    second.requests.labels("m").inc()
    totals.tell(2, second.text())
    assert 'homescope_requests_total{model="m"} 6.0' in lines(totals)
    totals.ended(2)
    third = Process()
    third.requests.labels("m").inc()
    totals.tell(3, third.text())
    assert 'homescope_requests_total{model="m"} 7.0' in lines(totals)


def test_what_nobody_counts_any_more_is_still_told() -> None:
    totals, first = Totals(), Process()
    first.requests.labels("gone").inc(5)
    totals.tell(1, first.text())
    totals.ended(1)
    totals.tell(2, Process().text())
    assert 'homescope_requests_total{model="gone"} 5.0' in lines(totals)


def test_each_process_has_its_part_and_no_setting_too_little() -> None:
    parts = share(Settings(max_in_flight=10, decode_workers=2, max_queued=0), 4)
    assert (parts["max_in_flight"], parts["decode_workers"], parts["max_queued"]) == (3, 1, 0)
    least = share(Settings(max_media_bytes=67_108_864, cache_bytes=1024), 64)
    assert (least["max_media_bytes"], least["cache_bytes"]) == (67_108_864, 1024)


def test_each_process_takes_the_largest_body_and_video() -> None:
    mib = 1 << 20
    settings = Settings(
        max_bodies_bytes=100 * mib, max_body_bytes=40 * mib, max_scratch_bytes=40 * mib, max_video_bytes=8 * mib
    )
    parts = [share(settings, processes) for processes in (2, 9)]
    assert [part["max_bodies_bytes"] for part in parts] == [50 * mib, 40 * mib]
    assert [part["max_scratch_bytes"] for part in parts] == [20 * mib, 10 * mib]
    assert share(Settings(max_scratch_bytes=9 * mib), 2)["max_scratch_bytes"] == 9 * mib


def test_settings_survive_the_way_to_a_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    chosen = Settings(
        data=tmp_path,
        auth=False,
        engine_urls=("http://a:1", "http://b:2"),
        engine_key=SecretStr("k"),
        prices=("qwen3-vl-30b=0.75/3",),
        fetch_allow=("10.0.0.0/8", "images.internal"),
        limit_rpm=7,
        tls_cert=tmp_path / "c",
        tls_key=tmp_path / "k",
        stop_delay=1.5,
    )
    written = environment(chosen, {"PATH": "/bin", "HOMESCOPE_MODEL": "not this one"})
    assert written["PATH"] == "/bin"
    for name, value in written.items():
        monkeypatch.setenv(name, value)
    assert reading.load() == chosen


def test_limits_that_cannot_be_kept_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"HOMESCOPE_LIMIT_RPM.*HOMESCOPE_REDIS_URL"):
        check(Settings(limit_rpm=1))
    assert check(Settings(limit_rpm=1, redis_url=SecretStr("redis://r"))) == []
    assert "keys" in check(Settings())[0]
