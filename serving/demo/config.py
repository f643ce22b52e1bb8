from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from serving.engine import vision_operators

vision_operators.define_missing()

from transformers import Qwen3VLMoeConfig  # noqa: E402 - its import asks for torchvision

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
MROPE_SECTIONS = {64: [12, 10, 10], 32: [6, 5, 5], 16: [4, 2, 2]}
"""How many pairs of a head's dimensions turn with time, height and width."""


@dataclass(frozen=True)
class Shape:
    """The demo model's shape: about 8.3 M parameters as it is."""

    hidden: int = 192
    text_layers: int = 4
    heads: int = 3
    head_dim: int = 64
    experts: int = 8
    expert_width: int = 128
    vision_layers: int = 6
    vision_hidden: int = 192
    deepstack: tuple[int, ...] = (1, 3)

    def text(self, token: dict[str, int], vocabulary: int) -> dict[str, Any]:
        return {
            "vocab_size": vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": 2 * self.hidden,
            "moe_intermediate_size": self.expert_width,
            "num_hidden_layers": self.text_layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "head_dim": self.head_dim,
            "num_experts": self.experts,
            "num_experts_per_tok": 2,
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "rope_parameters": {
                "rope_type": "default",
                "mrope_section": MROPE_SECTIONS[self.head_dim],
                "mrope_interleaved": True,
                "rope_theta": 1000,
            },
            "max_position_embeddings": 4096,
            "bos_token_id": token["<|endoftext|>"],
            "eos_token_id": token["<|im_end|>"],
            "pad_token_id": token["<|endoftext|>"],
            "tie_word_embeddings": True,
        }

    def vision(self) -> dict[str, Any]:
        """Its MLP uses the exact GELU: on a CPU its backward costs a third of the tanh form's."""
        return {
            "depth": self.vision_layers,
            "hidden_size": self.vision_hidden,
            "hidden_act": "gelu",
            "intermediate_size": 4 * self.vision_hidden,
            "num_heads": max(1, self.vision_hidden // 64),
            "out_hidden_size": self.hidden,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_position_embeddings": 256,
            "deepstack_visual_indexes": list(self.deepstack),
        }


def model_config(tokenizer: Tokenizer, **shape_of: Any) -> Qwen3VLMoeConfig:
    """The configuration of a model with the tokenizer's words; `shape_of` are fields of `Shape`."""
    shape, token = Shape(**shape_of), tokenizer.get_vocab()
    return Qwen3VLMoeConfig(
        text_config=shape.text(token, tokenizer.get_vocab_size()),
        vision_config=shape.vision(),
        image_token_id=token["<|image_pad|>"],
        video_token_id=token["<|video_pad|>"],
        vision_start_token_id=token["<|vision_start|>"],
        vision_end_token_id=token["<|vision_end|>"],
        tie_word_embeddings=True,
        dtype="bfloat16",
        architectures=["Qwen3VLMoeForConditionalGeneration"],
    )
