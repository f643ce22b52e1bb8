"""What a GPU could do at most, from the model's configuration: numbers are set against this, not against hopes.

Prefill is bound by arithmetic, decoding by reading the weights that a step touches and the cache of every sequence.
Sources: config.json of Qwen/Qwen3-VL-30B-A3B-Instruct; NVIDIA's data sheets of H100 SXM and H200 (dense rates).
"""

from __future__ import annotations

from dataclasses import dataclass

MFU = 0.45
"""Share of the peak arithmetic that good engines reach in prefill."""
MBU = 0.70
"""Share of the memory's bandwidth that they reach in decoding."""


@dataclass(frozen=True)
class Gpu:
    """Peak rates: FLOP/s dense in bf16 and FP8, bytes a second of memory."""

    name: str
    bf16: float
    fp8: float
    bandwidth: float
    memory: float


GPUS = {
    "H200": Gpu("H200", 989e12, 1979e12, 4.8e12, 141e9),
    "H100": Gpu("H100", 989e12, 1979e12, 3.35e12, 80e9),
}


@dataclass(frozen=True)
class Model:
    """Counts of parameters, by what touches them."""

    layers: int = 48
    kv_heads: int = 4
    head: int = 128
    q_heads: int = 32
    experts: int = 128
    chosen: int = 8
    attention: float = 18.87e6 + 0.26e6
    expert: float = 4.72e6
    lm_head: float = 0.311e9
    vision: float = 0.415e9
    vision_layers: int = 27
    vision_width: int = 1152
    mergers: float = 4 * 30.7e6

    @property
    def active(self) -> float:
        """Parameters that a token of the prompt meets."""
        return self.layers * (self.attention + self.chosen * self.expert)

    @property
    def kv_bytes(self) -> float:
        """Of one token, keys and values in bf16."""
        return self.layers * 2 * self.kv_heads * self.head * 2

    def touched(self, batch: int) -> float:
        """Parameters that one step of a batch reads: each token chooses its experts by itself."""
        share = 1 - (1 - self.chosen / self.experts) ** batch
        return self.layers * (self.attention + share * self.experts * self.expert) + self.lm_head


QWEN3_VL_30B = Model()


@dataclass(frozen=True)
class Shape:
    """A job: pixels of its image, tokens of its text, tokens of its answer."""

    name: str
    width: int
    height: int
    text: int
    output: int

    @property
    def vision_tokens(self) -> int:
        """One for each 32 x 32 pixels."""
        return (self.width // 32) * (self.height // 32)


SHAPES = {
    "dynamo": Shape("dynamo", 640, 640, 400, 150),
    "page": Shape("page", 1280, 1664, 200, 300),
    "prefill": Shape("prefill", 640, 640, 20, 1),
}


def prefill_s(gpu: Gpu, shape: Shape, fp8: bool = False, model: Model = QWEN3_VL_30B) -> float:
    """Seconds of arithmetic until the first token, at MFU. FP8 makes the language model's linear layers quicker."""
    tokens, patches = shape.vision_tokens + shape.text, 4 * shape.vision_tokens
    linear = 2 * model.active * tokens
    attention = 2 * model.layers * model.q_heads * model.head * tokens * tokens
    per_patch = 2 * model.vision + 4 * model.vision_layers * model.vision_width * patches
    vision = patches * per_patch + 2 * model.mergers * shape.vision_tokens
    return (linear / (gpu.fp8 if fp8 else gpu.bf16) + (attention + vision) / gpu.bf16) / MFU


def step_s(gpu: Gpu, shape: Shape, batch: int, fp8: bool = False, model: Model = QWEN3_VL_30B) -> float:
    """Seconds in which a batch gets one token each, at MBU."""
    context = shape.vision_tokens + shape.text + shape.output / 2
    weights = model.touched(batch) * (1 if fp8 else 2)
    return (weights + batch * context * model.kv_bytes) / (gpu.bandwidth * MBU)


def jobs_per_second(gpu: Gpu, shape: Shape, batch: int, fp8: bool = False) -> float:
    """Whole jobs: what of the time is left beside the prefills decodes."""
    decode = step_s(gpu, shape, batch, fp8) * max(0, shape.output - 1) / batch
    return 1 / (prefill_s(gpu, shape, fp8) + decode)
