from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.errors import ConfigurationError
from client.models import Skipped
from client.questions import Item, load
from client.sources import check_sources, natural, walk
from tests.client.conftest import png


def names(found: Iterator[Path]) -> list[str]:
    return [path.name for path in found]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("chart-10.png", "chart-2.png", "Chart-1.png", "sub/chart-3.png", ".hidden.png", ".git/chart-4.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(png())
    return tmp_path


def test_natural_order() -> None:
    unsorted = ["b", "a10", "a9", "A1", "a", "10", "9", "图2", "图10"]
    assert sorted(unsorted, key=natural) == ["9", "10", "a", "A1", "a9", "a10", "b", "图2", "图10"]


def test_a_folder_with_all_its_levels(folder: Path) -> None:
    assert names(walk([str(folder)])) == ["Chart-1.png", "chart-2.png", "chart-10.png", "chart-3.png"]


def test_a_pattern(folder: Path) -> None:
    assert names(walk([f"{folder}/chart-*.png"])) == ["chart-2.png", "chart-10.png"]
    assert names(walk([f"{folder}/**/chart-3.png"])) == ["chart-3.png"]


def test_a_name_with_brackets_is_a_name_first(folder: Path) -> None:
    (folder / "chart[1].png").write_bytes(png())
    assert names(walk([f"{folder}/chart[1].png"])) == ["chart[1].png"]


def test_each_file_once(folder: Path) -> None:
    assert names(walk([f"{folder}/chart-2.png", str(folder), f"{folder}/*.png"])).count("chart-2.png") == 1


def test_excluded_files_are_passed_over(folder: Path) -> None:
    assert "chart-2.png" not in names(walk([str(folder)], exclude=[folder / "chart-2.png"]))


def test_hidden_files_when_named(folder: Path) -> None:
    assert names(walk([f"{folder}/.hidden.png"])) == [".hidden.png"]


def test_it_is_lazy(folder: Path) -> None:
    found = walk([str(folder)])
    next(found)
    (folder / "chart-2.png").unlink()
    assert isinstance(load(next(found)), Skipped)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_below_that_cannot_be_read_is_told(folder: Path) -> None:
    (folder / "sub").chmod(0)
    *others, last = walk([str(folder)])
    (folder / "sub").chmod(0o700)
    assert (len(others), last) == (3, folder / "sub")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_load_says_of_a_folder_why(tmp_path: Path) -> None:
    tmp_path.chmod(0)
    closed = load(tmp_path)
    tmp_path.chmod(0o700)
    assert closed == Skipped(str(tmp_path), "a folder that cannot be read")


def test_load(tmp_path: Path) -> None:
    path = tmp_path / "图表.jpg"
    path.write_bytes(png(7))
    assert load(path) == Item(str(path), (png(7),), hashlib.sha256(png(7)).hexdigest())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"only words", "not an image"),
        (png(size=(40, 40))[:-20], "the PNG is cut short or damaged"),
    ],
)
def test_skipped_with_a_reason(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "x.png").write_bytes(data)
    assert load(tmp_path / "x.png") == Skipped(str(tmp_path / "x.png"), reason)


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    path = Path(os.fsdecode(bytes(tmp_path) + b"/chart-\xff.png"))
    path.write_bytes(png())
    item = load(path)
    assert item.file.endswith("chart-\\xff.png")
    item.file.encode("utf-8")


@pytest.mark.parametrize("source", ["nowhere", "no*match", "empty"])
def test_sources_that_can_hold_nothing(tmp_path: Path, source: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError, match=source.replace("*", r"\*")):
        check_sources([str(tmp_path / source)])
