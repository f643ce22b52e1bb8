from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

_kept: list[Any] = []
"""The operators live as long as the library object that defined them."""


def define_missing() -> None:
    """Makes `import torchvision` work beside a CPU build of torch; to be called before it.

    torchvision's published build links its operators to CUDA, so they do not load into such a torch, and its import
    fails where it registers a gradient for them. Image processing calls none of them: their schemas are enough.
    """
    torchvision = importlib.util.find_spec("torchvision")
    if _kept or torchvision is None or torchvision.origin is None:
        return
    torch: Any = importlib.import_module("torch")
    try:
        torch.ops.load_library(next(Path(torchvision.origin).parent.glob("_C*.so")))
    except (OSError, StopIteration):
        library = torch.library.Library("torchvision", "DEF")
        for schema in SCHEMAS:
            library.define(schema)
        _kept.append(library)
