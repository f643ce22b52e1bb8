"""The bounds against the published configuration, computed by hand."""

from __future__ import annotations

import pytest

from benchmarks.gpu.bounds import GPUS, MFU, QWEN3_VL_30B, SHAPES, Shape, jobs_per_second, prefill_s, step_s
from benchmarks.gpu.profiles import PROFILES

H200 = GPUS["H200"]


def test_parameters_and_cache_are_the_models() -> None:
    assert QWEN3_VL_30B.active == pytest.approx(2.73e9, rel=0.01)
    assert QWEN3_VL_30B.kv_bytes == 98_304
    assert QWEN3_VL_30B.touched(10_000) == pytest.approx(30.53e9 - 0.31e9, rel=0.01)


@pytest.mark.parametrize(("side", "images"), [(640, 248), (1024, 84), (2048, 12.9)])
def test_prefill_is_bound_by_arithmetic(side: int, images: float) -> None:
    seconds = prefill_s(H200, Shape("", side, side, 0, 1)) * MFU

    assert 1 / seconds == pytest.approx(images, rel=0.02)


def test_one_sequence_reads_its_experts_and_large_batches_read_all() -> None:
    short = Shape("", 32, 32, 0, 1)

    assert 0.7 / step_s(H200, short, 1) == pytest.approx(789 * 0.7 * 0.7, rel=0.02)
    assert step_s(H200, short, 256) / step_s(H200, short, 1) == pytest.approx(60.5 / 6.1, rel=0.03)


@pytest.mark.parametrize(("name", "fp8", "jobs"), [("page", False, 9.1), ("page", True, 12.0), ("dynamo", True, 55)])
def test_whole_jobs(name: str, fp8: bool, jobs: float) -> None:
    assert jobs_per_second(H200, SHAPES[name], 256, fp8) == pytest.approx(jobs, rel=0.04)


def test_a_profile_replaces_common_flags_once() -> None:
    command = PROFILES["bf16-one-server"].command(8000, dummy=True)

    assert command.count("--api-server-count") == 1
    assert command[command.index("--api-server-count") + 1] == "1"
    assert command[-2:] == ["--load-format", "dummy"]
