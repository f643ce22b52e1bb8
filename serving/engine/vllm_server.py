"""The process of one vLLM server: `python -m serving.engine.vllm_server [serve MODEL] FLAGS`.

vLLM starts further interpreters by spawning; each of them imports this module first (as `__mp_main__`), so what is done
here on import holds in all of them.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from serving.engine import vision_operators
from serving.engine.orphans import PARENT_PID, die_with_parent


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


if __name__ in ("__main__", "__mp_main__"):
    die_with_parent(int(os.environ[PARENT_PID]) if __name__ == "__main__" and PARENT_PID in os.environ else None)
    vision_operators.define_missing()

if __name__ == "__main__":
    main()
