from __future__ import annotations

import pytest
from click.testing import CliRunner

from serving.cli import main
from serving.engine import sizing
from serving.engine.sizing import CARDS, DoesNotFit, Request, size

PAGE = Request(2080, 200, 300)
H200 = CARDS["H200"]


def test_the_models_figures_are_those_of_the_sheet_that_it_was_made_by() -> None:
    """29.1 TF for the images of a page, of which 45 % of 989 TF/s make 15.3 a second; 6.1 GB for a step of one."""
    assert 1 / sizing.prefill_s(H200, Request(2080, 0, 1), "bf16") == pytest.approx(15.3, rel=0.03)
    alone = sizing.step_s(H200, Request(0, 0, 0), "bf16", 1) * H200.bandwidth * sizing.BANDWIDTH_SHARE
    assert alone == pytest.approx(6.1e9, rel=0.02)
    assert sizing.throughput(H200, PAGE, "bf16", 256) == pytest.approx(9.1, rel=0.03)
    assert sizing.throughput(H200, PAGE, "fp8", 256) == pytest.approx(12.0, rel=0.06)


def test_more_work_wants_more_replicas_and_never_more_than_is_planned_of_each() -> None:
    for rate in (0.1, 5.0, 10.0, 100.0):
        found = size(H200, PAGE, rate, "bf16")
        assert rate / found.replicas <= found.rate_per_replica * sizing.UTILISATION + 1e-9
        assert found.in_flight <= found.max_in_flight
        assert found.first_token_s < found.mean_s <= found.p99_s


def test_a_first_token_waits_for_the_images_and_comes_before_the_answer() -> None:
    """One API server prepares 14 pages a second: a page cannot be seen before 71 ms have passed."""
    for card, request in [(H200, PAGE), (H200, Request(0, 40_000, 300)), (CARDS["B200"], Request(198, 0, 1))]:
        found = size(card, request, 0.01, "bf16")
        alone = request.preparing_s + sizing.prefill_s(card, request, "bf16")
        assert alone < found.first_token_s < found.mean_s <= found.p99_s
    assert size(H200, PAGE, 0.01, "bf16").first_token_s > 0.071 + 0.065


def test_who_is_alone_is_answered_as_fast_at_p99() -> None:
    found = size(H200, PAGE, 0.001, "bf16")
    assert (found.in_flight, found.p99_s) == (1, found.mean_s)


def test_a_long_request_gets_the_context_that_it_wants() -> None:
    assert size(H200, PAGE, 1, "bf16").max_context == 32_768
    assert size(H200, Request(0, 40_000, 300), 1, "bf16").max_context == 40_960
    with pytest.raises(DoesNotFit, match="262,144 tokens at most, such a request has 300,100"):
        size(H200, Request(0, 300_000, 100), 1, "bf16")


@pytest.mark.parametrize("card", CARDS)
def test_a_card_that_is_better_in_everything_answers_more(card: str) -> None:
    for other in CARDS.values():
        mine = CARDS[card]
        if other.bf16 >= mine.bf16 and other.bandwidth >= mine.bandwidth and other.memory_gib >= mine.memory_gib:
            assert size(other, PAGE, 1, "bf16").rate_per_replica >= size(mine, PAGE, 1, "bf16").rate_per_replica


def test_what_was_measured_goes_before_what_was_computed() -> None:
    assert size(H200, PAGE, 10, "bf16", measured=2.0).replicas == 8


def test_weights_are_spread_where_one_card_does_not_hold_them() -> None:
    assert size(CARDS["L40S"], PAGE, 1, "bf16").cards_per_replica == 2
    with pytest.raises(DoesNotFit, match="no FP8 units"):
        size(CARDS["A100-80"], PAGE, 1, "fp8")


def test_small_images_are_bound_by_who_prepares_them() -> None:
    assert size(CARDS["B200"], Request(2080, 0, 1), 1, "fp8").limit == "the GPU"
    assert size(CARDS["B200"], Request(64, 0, 1), 1, "fp8").rate_per_replica <= 4 * 14 * 1280 * 1664 / (64 * 1024)


def test_the_command_tells_replicas_flags_times_and_what_it_assumes() -> None:
    done = CliRunner().invoke(main, ["size", "--gpu", "h200", "--rate", "10", "--image", "1280x1664"])
    assert done.exit_code == 0
    assert done.output.startswith("2 replicas of 1 x H200")
    for word in ("MAX_NUM_SEQS=256", "at p99", "assumed", "--measured"):
        assert word in done.output


@pytest.mark.parametrize("image", ["12x", "0x5", "axb", "-1x4"])
def test_an_image_that_is_none_is_said(image: str) -> None:
    done = CliRunner().invoke(main, ["size", "--rate", "1", f"--image={image}"])
    assert done.exit_code == 2
    assert "WIDTHxHEIGHT" in done.output


@pytest.mark.parametrize("rate", ["nan", "inf"])
def test_what_is_no_rate_is_said_so(rate: str) -> None:
    done = CliRunner().invoke(main, ["size", "--rate", rate])
    assert (done.exit_code, "--rate" in done.output) == (2, True)
