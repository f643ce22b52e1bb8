from __future__ import annotations

import json
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from benchmarks.page import plots, report_page
from benchmarks.plots import Series, plot
from benchmarks.report import BadObjective, Objective, report
from tests.benchmarks.made import SECOND, evenly, record


def test_percentiles_are_those_of_the_records() -> None:
    found = report(evenly([at / 100 for at in range(1, 101)])).latencies["e2e"]

    values = {name: estimate.value for name, estimate in found.percentiles.items()}
    assert values == pytest.approx({"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 1.0})
    assert found.mean.value == pytest.approx(0.505)


def test_a_wait_before_the_send_is_counted_from_the_intended_start() -> None:
    late = [record(at, at / 10, 1.0, sent=round(at / 10 * SECOND) + SECOND // 2, held=SECOND // 2) for at in range(10)]

    found = report(late).latencies

    assert found["e2e"].percentiles["p50"].value == 1.0
    assert found["e2e_from_send"].percentiles["p50"].value == 0.5


def test_tokens_have_their_times() -> None:
    one = record(0, 1.0, 1.0, first=round(1.2 * SECOND), gaps=[100_000, 300_000], output_tokens=5)

    found = report([one]).latencies

    assert found["ttft"].percentiles["p50"].value == pytest.approx(0.2)
    assert found["tpot"].percentiles["p50"].value == pytest.approx(0.1)
    assert found["itl"].percentiles["p99"].value == pytest.approx(0.3)


def test_rates_are_per_second_of_the_whole_run() -> None:
    found = report(evenly([1.0] * 11, images=2, pixels=3_000_000, image_tokens=50, bytes_sent=1_000_000)).rates

    assert found["requests"] == pytest.approx(11 / 2)
    assert found["images"] == pytest.approx(11)
    assert found["vision_tokens"] == pytest.approx(275)
    assert found["upload_mb"] == pytest.approx(5.5)
    assert found["megapixels"] == pytest.approx(16.5)


def test_what_failed_is_no_goodput_and_no_latency() -> None:
    found = report([*evenly([0.1] * 9), record(9, 0.9, 0.01, outcome="Throttling", status=429)])

    assert found.outcomes == {"ok": 9, "Throttling": 1}
    assert found.latencies["e2e"].count == 9
    assert found.good_share == 0.9
    assert not found.meets


def test_goodput_counts_what_met_every_limit() -> None:
    objective = Objective.parsed("e2e<=500ms,itl<=0.2s", share=0.5)
    slow, halting = record(0, 0, 0.6), record(1, 0.1, 0.1, gaps=[250_000])
    fine = [record(2, 0.2, 0.1, gaps=[150_000]), record(3, 0.3, 0.7)]

    found = report([slow, halting, *fine], objective=objective)

    assert found.good_share == 0.25
    assert found.rates["goodput"] == pytest.approx(1 / 1.0)
    assert not found.meets


def test_a_generator_that_lagged_makes_a_run_invalid() -> None:
    records = [record(at, at / 10, 1.0, sent=round(at / 10 * SECOND) + 8_000_000) for at in range(10)]

    (reason,) = report(records).invalid

    assert "lagged: p99 8.0 ms" in reason


def test_a_rate_that_was_not_reached_makes_a_run_invalid() -> None:
    records = [record(at, at / 10, 1.0, sent=round(at / 5 * SECOND), held=round(at / 10 * SECOND)) for at in range(10)]

    (reason,) = report(records).invalid

    assert "sent 50.0% of the intended rate" in reason
    assert "limit of requests in flight" in reason


def test_a_busy_event_loop_makes_a_run_invalid() -> None:
    (reason,) = report(evenly([0.1] * 9), {"loop_delay_p99_ms": 12.0}).invalid

    assert "event loop was late: p99 12.0 ms" in reason


def test_a_load_on_time_is_valid() -> None:
    assert report(evenly([0.1] * 100)).invalid == []


def test_a_page_says_of_an_invalid_run_that_it_is_one_and_no_more() -> None:
    records = evenly([0.1] * 50)

    assert "meets its objective" in report_page(report(records), records, {})
    page = report_page(report(records, {"loop_delay_p99_ms": 12.0}), records, {})
    assert "INVALID" in page
    assert "its objective" not in page


def test_a_server_that_slows_down_is_not_steady() -> None:
    found = report(evenly([0.1 + at / 200 for at in range(200)]))

    assert not found.steady["latency"].steady
    assert any("latency is not steady" in note for note in found.notes)
    assert report(evenly([0.1] * 200)).steady["latency"].steady


def test_a_run_without_requests_has_no_report() -> None:
    with pytest.raises(ValueError, match="nothing to report"):
        report([])


@pytest.mark.parametrize("text", ["fast", "e2e<12", "e2e<=x", "latency<=3s"])
def test_an_objective_that_is_none_is_named(text: str) -> None:
    if text == "e2e<12":
        assert Objective.parsed(text).limits == {"e2e": 12.0}
        return
    with pytest.raises(BadObjective, match="is not of the form"):
        Objective.parsed(text)


def test_a_report_is_json() -> None:
    assert json.loads(json.dumps(report(evenly([0.1] * 5)).to_dict()))["requests"] == 5


def test_the_page_needs_no_network_and_escapes_what_servers_say() -> None:
    records = [*evenly([0.1] * 50, first=1, gaps=[5]), record(50, 5, 0.1, outcome="<script>")]

    page = report_page(report(records), records, {"name": "a <b> run", "versions": {"x": "1"}})

    assert "<script>" not in page
    assert "a &lt;b&gt; run" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page


def test_plots_are_well_formed() -> None:
    figures = list(plots(evenly([0.1 * at + 0.01 for at in range(50)], first=1, gaps=[5, 7])))

    assert len(figures) == 6
    for figure in figures:
        ElementTree.fromstring(figure)


@pytest.mark.parametrize(("low", "high"), [(0.05, 0.12), (0.001, 100.0), (0.3, 4.0)])
def test_a_logarithmic_axis_has_ticks_that_can_be_read(low: float, high: float) -> None:
    """At least two, and no more than fit side by side."""
    figure = ElementTree.fromstring(plot("", "", "", [Series("", [(low, 0.0), (high, 1.0)])], log_x=True))

    ticks = [each for each in figure.iter("text") if each.get("class") == "tick"]
    places = [float(each.get("x") or 0) for each in ticks]
    assert 2 <= len(places) <= 10
    assert min(after - before for before, after in pairwise(places)) > 25
