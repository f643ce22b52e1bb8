from __future__ import annotations

from functools import cache
from typing import Any

from client.documents.models import Box


def read_lines(part: Any) -> list[tuple[Box, str]]:
    """Lines of text in an RGB array, boxes in its pixels."""
    if min(part.shape[:2]) < 8:
        return []
    answer = _reader()(part[:, :, ::-1])
    if answer.boxes is None or answer.txts is None:
        return []
    return [
        ((float(box[:, 0].min()), float(box[:, 1].min()), float(box[:, 0].max()), float(box[:, 1].max())), text)
        for box, text in zip(answer.boxes, answer.txts, strict=True)
    ]


def upside_down(part: Any) -> float:
    """How sure it is that a line of text, an RGB array, stands on its head: above 0 it does, -1 to 1."""
    answer = _turns()(part[:, :, ::-1], use_det=False, use_cls=True, use_rec=False)
    label, score = answer.cls_res[0]
    return float(score) if label == "180" else -float(score)


@cache
def _turns() -> Any:
    from rapidocr import RapidOCR

    return RapidOCR(params={"Global.log_level": "error"})


@cache
def _reader() -> Any:
    from rapidocr import RapidOCR

    # By default a strip is scaled up until its short side has 736 pixels, which takes ten times as long.
    return RapidOCR(params={"Det.limit_type": "max", "Det.limit_side_len": 960, "Global.log_level": "error"})
