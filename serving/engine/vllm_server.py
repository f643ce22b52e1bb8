"""The process of one vLLM server: `python -m serving.engine.vllm_server [serve MODEL] FLAGS`.

vLLM starts further interpreters by spawning; each of them imports this module first (as `__mp_main__`), so what is done
here on import holds in all of them.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
PARENT = "ENGINE_PARENT_PID"
VISION_OPERATORS = ("nms", "qnms")

_kept: list[Any] = []
"""The operators live as long as the library object that defined them."""


def die_with_parent() -> None:
    """Has the kernel end this process when the one that started it ends, however it ended (Linux only)."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if __name__ == "__main__" and os.environ.get(PARENT, str(os.getppid())) != str(os.getppid()):
        sys.exit("the process that started this engine is gone")


def define_missing_vision_operators() -> None:
    """torchvision from PyPI links its operators to CUDA, so they do not load into a CPU build of torch, and its import
    fails where it registers their gradients. Image processing calls none of them: their schemas are enough."""
    torchvision = importlib.util.find_spec("torchvision")
    if torchvision is None or torchvision.origin is None:
        return
    torch: Any = importlib.import_module("torch")
    try:
        torch.ops.load_library(next(Path(torchvision.origin).parent.glob("_C*.so")))
    except (OSError, StopIteration):
        library = torch.library.Library("torchvision", "DEF")
        for name in VISION_OPERATORS:
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.append(library)


def inspect_in_process(model: str) -> None:
    """vLLM asks a fresh interpreter what a model class can do, lest CUDA start in this one. There is none on a CPU, and
    this process imports the class anyway."""
    registry: Any = importlib.import_module("vllm.model_executor.models").ModelRegistry
    try:
        architectures = json.loads((Path(model) / "config.json").read_text())["architectures"]
    except (OSError, ValueError, KeyError):
        return  # a name on the hub, or a folder that vLLM will explain better
    for name in architectures:
        if name in registry.models:
            registry.register_model(name, registry.models[name].load_model_cls())


def main() -> None:
    if sys.argv[1:2] == ["serve"]:
        importlib.import_module("vllm.entrypoints.cli.main").main()
        return
    # The command of the CPU distribution asks for the metadata of one named vllm, which is not there.
    entry: Any = importlib.import_module("vllm.entrypoints.launchers.api_server.entry")
    inspect_in_process(sys.argv[sys.argv.index("--model") + 1])
    entry.main()


die_with_parent()
define_missing_vision_operators()

if __name__ == "__main__":
    main()
