"""Data sets in the layouts in which they are published, read from a local folder; nothing is downloaded.

    chartqa   ChartQA Dataset/test/{test_human.json,test_augmented.json,png/}: imgname, query, label
    docvqa    val_v1.0_withQT.json (or val_v1.0.json) beside documents/: data[]: question, image, answers
    charts    a folder that `homescope`'s demo or `python -m serving.demo` wrote: images and expected.jsonl
    lines     one's own, as in benchmarks/workload.py

Prompts and sampling are frozen: a change would move the scores more than most changes of a model do.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.workload import Ask, BadWorkload, read_lines, read_picture

SAMPLING = {"temperature": 0, "seed": 1}
_CHARTQA = "{question}\nAnswer the question using a single word, number or phrase."
_CHARTS = "提取图中数据，以JSON格式输出。"
_DOCVQA = "{question}\nAnswer the question using the exact words of the document, and nothing else."


@dataclass(frozen=True)
class Entry:
    """A question before its image is read."""

    image: Path
    prompt: str
    expected: Any
    metric: str
    max_tokens: int
    name: str

    def ask(self) -> Ask:
        """Raises BadWorkload: the image is missing or none."""
        try:
            picture = read_picture(self.image)
        except OSError as error:
            raise BadWorkload(f"{self.image}: {error}") from error
        return Ask((picture,), self.prompt, self.max_tokens, self.expected, self.metric, self.name)


def chartqa(folder: Path) -> Iterator[Entry]:
    """Both halves of the test split."""
    splits = sorted(folder.rglob("test_*.json"))
    if not splits:
        raise BadWorkload(f"{folder} holds no test_human.json or test_augmented.json; is it the folder of ChartQA?")
    for split in splits:
        for at, one in enumerate(_json(split)):
            prompt, image = _CHARTQA.format(question=one["query"]), split.parent / "png" / one["imgname"]
            yield Entry(image, prompt, one["label"], "relaxed", 32, f"{split.stem}-{at}")


def docvqa(folder: Path) -> Iterator[Entry]:
    """The validation split: answers of the test split are not published."""
    files = sorted(folder.glob("val_v1.0*.json"))
    if not files:
        raise BadWorkload(f"{folder} holds no val_v1.0*.json; is it the folder of DocVQA?")
    for one in _json(files[-1])["data"]:
        prompt = _DOCVQA.format(question=one["question"])
        yield Entry(folder / one["image"], prompt, one["answers"], "anls", 64, f"docvqa-{one['questionId']}")


def charts(folder: Path) -> Iterator[Entry]:
    """Generated charts; the score of an answer is the share of the JSON's leaves that it has right."""
    files = sorted(folder.rglob("expected.jsonl"))
    if not files:
        raise BadWorkload(f"{folder} holds no expected.jsonl; `make demo` writes one into demo-out")
    for line in files[0].read_text("utf-8").splitlines():
        one = json.loads(line)
        yield Entry(files[0].parent / one["file"], _CHARTS, one["expected"], "fields", 256, one["file"])


LAYOUTS: dict[str, Callable[[Path], Iterator[Entry]]] = {"chartqa": chartqa, "docvqa": docvqa, "charts": charts}


def questions(layout: str, folder: Path, most: int | None = None, seed: int = 0) -> list[Ask]:
    """A data set's questions, a seeded sample of `most` of them; equal seeds give equal samples.

    Raises:
        BadWorkload: the folder is not in that layout.
    """
    if layout == "lines":
        asks = read_lines(folder)
        return asks if most is None or most >= len(asks) else random.Random(seed).sample(asks, most)
    try:
        entries = list(LAYOUTS[layout](folder))
    except (KeyError, TypeError, ValueError) as error:
        raise BadWorkload(f"{folder} is not in the published layout of {layout}: {error!r}") from error
    if most is not None and most < len(entries):
        entries = random.Random(seed).sample(entries, most)
    return [entry.ask() for entry in entries]


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BadWorkload(f"{path} cannot be read: {error}") from error
