"""The process of one vLLM server: `python -m serving.engine.vllm_server [serve MODEL] FLAGS`.

On a GPU vLLM starts further interpreters by spawning; each of them imports this module first (as `__mp_main__`), so
what is done here on import holds in all of them. On a CPU its engine is a fork of this process.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

from serving.engine import vision_operators
from serving.engine.orphans import die_with_parent, die_with_starter

ENGINE_THREADS = "ENGINE_THREADS"
"""How many threads compute the model on a CPU; OMP_NUM_THREADS is 1 until the engine is a process of its own."""


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


def fork_engine() -> None:
    """Has vLLM fork its engine from this process, which has imported all that the engine needs.

    A fresh interpreter takes 10 s of CPU for that. vLLM would fork by itself, were it not for workers that are bound to
    CPUs by environment variables. Here the model runs in the engine's own process; and OpenMP, which does not survive a
    fork once it has threads, gets them after it.
    """
    torch: Any = importlib.import_module("torch")
    threads = int(os.environ[ENGINE_THREADS])

    def in_child() -> None:
        die_with_parent()
        torch.set_num_threads(threads)

    os.register_at_fork(after_in_child=in_child)
    processes: Any = importlib.import_module("vllm.v1.engine.utils")
    processes.get_mp_context = lambda: multiprocessing.get_context("fork")


def main() -> None:
    if sys.argv[1:2] == ["serve"]:
        importlib.import_module("vllm.entrypoints.cli.main").main()
        return
    # The command of the CPU distribution asks for the metadata of one named vllm, which is not there.
    entry: Any = importlib.import_module("vllm.entrypoints.launchers.api_server.entry")
    inspect_in_process(sys.argv[sys.argv.index("--model") + 1])
    fork_engine()
    entry.main()


if __name__ in ("__main__", "__mp_main__"):
    die_with_starter()
    vision_operators.define_missing()

if __name__ == "__main__":
    main()
