from __future__ import annotations

import base64
import io
import json
from itertools import islice
from pathlib import Path

import PIL.Image
import pytest

from benchmarks.workload import BadWorkload, Kind, Workload, read_lines


def pixels(data: bytes) -> bytes:
    with PIL.Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB").tobytes()


@pytest.mark.parametrize("kind", ["chart", "page", "noise"])
@pytest.mark.parametrize("size", [(64, 48), (65, 33)])
def test_pictures_are_whole_and_travel_as_they_are(kind: Kind, size: tuple[int, int]) -> None:
    picture = next(Workload(kind, *size).asks()).images[0]

    assert base64.b64decode(picture.uri.partition(",")[2]) == picture.data
    assert len(pixels(picture.data)) == size[0] * size[1] * 3
    assert picture.pixels == size[0] * size[1]


def test_unique_pictures_differ_in_pixels() -> None:
    asks = islice(Workload("chart", 64, 64).asks(), 50)

    assert len({pixels(ask.images[0].data) for ask in asks}) == 50


def test_repeated_pictures_come_from_the_pool() -> None:
    workload = Workload("chart", 64, 64, repeated=1.0, pool=3)

    assert len({ask.images[0].digest for ask in islice(workload.asks(), 60)}) == 3


def test_half_repeated_is_half() -> None:
    workload = Workload("chart", 64, 64, repeated=0.5, pool=2)
    unique = {ask.images[0].digest for ask in islice(workload.asks(), 400)}

    assert len(unique) == pytest.approx(202, abs=40)


def test_equal_seeds_give_equal_requests() -> None:
    one, same, other = (list(islice(Workload("page", 64, 64, seed=seed).asks(), 3)) for seed in (1, 1, 2))

    assert [ask.images[0].digest for ask in one] == [ask.images[0].digest for ask in same]
    assert one[0].images[0].digest != other[0].images[0].digest


def test_noise_has_the_bytes_that_it_says() -> None:
    picture = next(Workload("noise", 183, 183).asks()).images[0]

    assert len(picture.data) == pytest.approx(100_000, rel=0.02)


def test_lines_of_ones_own(tmp_path: Path) -> None:
    image = next(Workload("chart", 64, 64).asks()).images[0].data
    (tmp_path / "a.png").write_bytes(image)
    lines = tmp_path / "lines.jsonl"
    lines.write_text(json.dumps({"images": ["a.png"], "prompt": "How many?", "expected": "5", "metric": "relaxed"}))

    (ask,) = read_lines(lines)

    assert ask.images[0].data == image
    assert (ask.prompt, ask.expected, ask.metric) == ("How many?", "5", "relaxed")


@pytest.mark.parametrize("line", ["{", "[]", '{"images": ["none.png"]}', '{"images": 3}'])
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    lines = tmp_path / "lines.jsonl"
    lines.write_text(f'{{"prompt": "fine"}}\n{line}\n')

    with pytest.raises(BadWorkload, match="line 2"):
        read_lines(lines)


def test_a_file_without_requests_is_refused(tmp_path: Path) -> None:
    lines = tmp_path / "lines.jsonl"
    lines.write_text("\n")

    with pytest.raises(BadWorkload, match="holds no request"):
        read_lines(lines)
