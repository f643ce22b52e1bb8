from __future__ import annotations

import random
from pathlib import Path

import pytest

from serving.demo import pixels as demo
from serving.engine import vision_operators
from serving.engine.plan import DEMO_MODEL
from serving.generation import Pixels
from serving.media.policy import PUBLISHED, PixelPolicy, Processor, processor_of
from serving.media.tokens import Bounds, frame_count, grid, image_tokens, sampled, video_grid, video_tokens

CLOUD = PixelPolicy(video_most=2_048_000, video_total=134_217_728, max_frames=2000)
"""qwen3-vl-plus, on which the measurements were made."""
TEXT = 10
"""Tokens of the question that came with the measured images."""
ROOMY = Processor(video=Bounds(4_096, 1 << 40))


@pytest.mark.parametrize(
    ("side", "high_resolution", "tokens"),
    [
        (64, False, 76),
        (512, False, 268),
        (1024, False, 1036),
        (2048, False, 2512),
        (4096, False, 2512),
        (2048, True, 4108),
        (4096, True, 16_396),
    ],
)
def test_images_cost_what_the_cloud_counted(side: int, high_resolution: bool, tokens: int) -> None:
    asked = Pixels(high_resolution=high_resolution)
    assert image_tokens(CLOUD.image_size((side, side), asked, PUBLISHED)) + TEXT == tokens


@pytest.mark.parametrize(
    ("size", "seconds", "fps", "tokens"),
    [
        ((640, 480), 2, None, 602),
        ((640, 480), 3, None, 902),
        ((320, 240), 3, None, 242),
        ((320, 240), 6, None, 482),
        ((320, 240), 6, 1, 242),
        ((320, 240), 6, 0.5, 162),
        ((1280, 720), 60, None, 35_642),
        ((1280, 720), 60, 4, 71_282),
        ((1280, 720), 60, 0.5, 8_912),
    ],
)
def test_videos_cost_what_the_cloud_counted(
    size: tuple[int, int], seconds: float, fps: float | None, tokens: int
) -> None:
    frames = CLOUD.frame_count(seconds, fps, None)
    assert video_tokens(frames, CLOUD.frame_size(size, frames, Pixels(), ROOMY)) == tokens


def test_a_count_from_a_captured_answer_is_one_that_a_grid_can_have() -> None:
    assert image_tokens((41 * 32, 61 * 32)) == 2503


def sizes(seed: int) -> list[tuple[tuple[int, int], Bounds, int]]:
    """2,000 sizes that the limits let through, with bounds and frame counts that a policy can have."""
    draw = random.Random(seed)
    found: list[tuple[tuple[int, int], Bounds, int]] = []
    while len(found) < 2000:
        width, height = (round(10 ** draw.uniform(1, 3.9)) for _ in range(2))
        least = draw.choice([4_096, 49_152, 65_536, 100_000])
        most = least * draw.choice([1, 2, 40, 256])
        if max(width, height) <= 200 * min(width, height):
            found.append(((width, height), Bounds(least, most), draw.choice([4, 6, 16, 120])))
    return found


@pytest.mark.timeout(180)  # they import torch
def test_the_grid_is_the_one_of_the_published_processors() -> None:
    vision_operators.define_missing()
    image_resize = pytest.importorskip("transformers.models.qwen2_vl.image_processing_qwen2_vl").smart_resize
    video_resize = pytest.importorskip("transformers.models.qwen3_vl.video_processing_qwen3_vl").smart_resize
    for (width, height), bounds, frames in sizes(1):
        limits = {"factor": 32, "min_pixels": bounds.least, "max_pixels": bounds.most}
        rows, columns = image_resize(height, width, **limits)
        assert grid((width, height), bounds) == (columns, rows)
        if min(width, height) < 32 and max(int(s * 32 / min(width, height)) for s in (width, height)) > 6400:
            continue  # the published rule refuses what its own enlargement has made too long
        rows, columns = video_resize(num_frames=frames, height=height, width=width, **limits)
        assert video_grid((width, height), frames, bounds) == (columns, rows)


def test_what_is_sent_in_the_policys_size_is_left_alone_by_the_engine() -> None:
    policy = PixelPolicy()
    for size, _, frames in sizes(2):
        sent = policy.image_size(size, Pixels(), PUBLISHED)
        assert PUBLISHED.sees(sent) == sent
        shown = policy.frame_size(size, frames, Pixels(), PUBLISHED)
        assert PUBLISHED.sees_frames(shown, frames) == shown


def test_the_demo_model_is_trained_on_the_same_grid() -> None:
    for size, _, _ in sizes(3):
        assert grid(size, Bounds(demo.MIN_PIXELS, demo.MAX_PIXELS)) == demo.fitted_size(*size)


def test_a_processor_is_read_from_its_own_files() -> None:
    assert processor_of(DEMO_MODEL).image == Bounds(demo.MIN_PIXELS, demo.MAX_PIXELS)
    assert processor_of(DEMO_MODEL).factor == 32


def test_older_names_of_the_bounds_are_read_too(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text('{"min_pixels": 4096, "max_pixels": 8192, "patch_size": 14}')
    assert processor_of(tmp_path) == Processor(Bounds(4096, 8192), PUBLISHED.video, 28)


@pytest.mark.parametrize(
    ("asked", "bounds"),
    [
        (Pixels(), Bounds(65_536, 2_621_440)),
        (Pixels(least=1, most=10**12), Bounds(65_536, 16_777_216)),
        (Pixels(least=200_000, most=100_000), Bounds(200_000, 200_000)),
        (Pixels(most=500_000, high_resolution=True), Bounds(65_536, 16_777_216)),
        (Pixels(least=-5, most=-5), Bounds(65_536, 65_536)),
    ],
)
def test_what_a_request_asks_of_an_image_is_clamped(asked: Pixels, bounds: Bounds) -> None:
    assert PixelPolicy().image_bounds(asked) == bounds


@pytest.mark.parametrize(
    ("frames", "asked", "bounds"),
    [
        (4, Pixels(), Bounds(65_536, 655_360)),
        (512, Pixels(), Bounds(65_536, 262_144)),
        (4, Pixels(least=0, most=10**9), Bounds(4_096, 786_432)),
        (4, Pixels(total=400_000), Bounds(65_536, 200_000)),
        (4, Pixels(total=10**12), Bounds(65_536, 655_360)),
        (4, Pixels(total=0), Bounds(65_536, 65_536)),
    ],
)
def test_what_a_request_asks_of_a_video_is_clamped(frames: int, asked: Pixels, bounds: Bounds) -> None:
    assert PixelPolicy().frame_bounds(frames, asked) == bounds


@pytest.mark.parametrize(
    ("seconds", "fps", "count"), [(1, 2, 4), (2.4, 2, 4), (3.5, 2, 6), (60, 2, 120), (600, 2, 512), (60, 10, 512)]
)
def test_frames_come_in_pairs(seconds: float, fps: float, count: int) -> None:
    assert frame_count(seconds, fps, 512) == count


def test_a_request_may_ask_for_fewer_frames_but_not_for_more() -> None:
    policy = PixelPolicy(max_frames=64)
    counts = [policy.frame_count(600, fps, most) for fps, most in [(2, 10), (2, 9), (2, 999), (100, 0), (0, -1)]]
    assert counts == [10, 8, 64, 64, 4]


def test_frames_are_sampled_at_equal_distances() -> None:
    assert sampled(91, 4) == [0, 30, 60, 90]
    assert sampled(3, 4) == [0, 1, 1, 2]
    assert sampled(1, 4) == [0, 0, 0, 0]
