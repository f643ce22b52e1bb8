"""How the engine is started for one GPU: the flags to try, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass

_MODEL = "Qwen/Qwen3-VL-30B-A3B-Instruct"

COMMON = {
    "--max-model-len": "32768",  # the model's own 262,144 would reserve cache for what nobody sends
    "--limit-mm-per-prompt": '{"image": 8, "video": 0}',  # no video: its share of the memory goes to the cache
    "--max-num-seqs": "256",
    "--max-num-batched-tokens": "16384",
    "--gpu-memory-utilization": "0.92",
    "--api-server-count": "4",  # one renders about 14 pages a second, and a GPU of this size wants more
    "--mm-processor-cache-gb": "0",  # images are unique here; with repeated ones 8, and --mm-processor-cache-type shm
    "--mm-encoder-tp-mode": "data",
}
SWITCHES = ("--async-scheduling", "--no-enable-prefix-caching", "--enable-prompt-tokens-details")
ENVIRONMENT = {"OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Profile:
    """One way to start vLLM. `changes` replace common flags."""

    name: str
    model: str
    fp8: bool
    changes: tuple[tuple[str, str], ...] = ()

    def command(self, port: int, dummy: bool) -> list[str]:
        """Arguments of vLLM's server. `dummy`: random weights, which take the time of true ones but for the MoE's
        routing, which is even, and answers that mean nothing."""
        flags = [part for pair in {**COMMON, **dict(self.changes)}.items() for part in pair]
        load = ["--load-format", "dummy"] if dummy else []
        return ["--model", self.model, "--host", "127.0.0.1", "--port", str(port), *flags, *SWITCHES, *load]


PROFILES = {
    each.name: each
    for each in (
        Profile("bf16", _MODEL, False),
        Profile("fp8", f"{_MODEL}-FP8", True),
        Profile("bf16-one-server", _MODEL, False, (("--api-server-count", "1"),)),
        Profile("fp8-large-batches", f"{_MODEL}-FP8", True, (("--max-num-seqs", "512"),)),
    )
}
