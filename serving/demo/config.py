from __future__ import annotations

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


def model_config(
    tokenizer: Tokenizer,
    *,
    hidden: int = 192,
    text_layers: int = 4,
    heads: int = 3,
    head_dim: int = 64,
    experts: int = 8,
    expert_width: int = 128,
    vision_layers: int = 6,
    vision_hidden: int = 192,
    deepstack: tuple[int, ...] = (1, 3),
) -> Qwen3VLMoeConfig:
    """The demo model's shape: about 8.3 M parameters with the defaults.

    The vision MLP uses the exact GELU: on a CPU its backward costs a third of the tanh form's.
    """
    token: dict[str, int] = tokenizer.get_vocab()
    sections = {64: [12, 10, 10], 32: [6, 5, 5], 16: [4, 2, 2]}[head_dim]
    text = {
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "moe_intermediate_size": expert_width,
        "num_hidden_layers": text_layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": head_dim,
        "num_experts": experts,
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "rope_parameters": {
            "rope_type": "default",
            "mrope_section": sections,
            "mrope_interleaved": True,
            "rope_theta": 1000,
        },
        "max_position_embeddings": 4096,
        "bos_token_id": token["<|endoftext|>"],
        "eos_token_id": token["<|im_end|>"],
        "pad_token_id": token["<|endoftext|>"],
        "tie_word_embeddings": True,
    }
    vision = {
        "depth": vision_layers,
        "hidden_size": vision_hidden,
        "hidden_act": "gelu",
        "intermediate_size": 4 * vision_hidden,
        "num_heads": max(1, vision_hidden // 64),
        "out_hidden_size": hidden,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "num_position_embeddings": 256,
        "deepstack_visual_indexes": list(deepstack),
    }
    return Qwen3VLMoeConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=token["<|image_pad|>"],
        video_token_id=token["<|video_pad|>"],
        vision_start_token_id=token["<|vision_start|>"],
        vision_end_token_id=token["<|vision_end|>"],
        tie_word_embeddings=True,
        dtype="bfloat16",
        architectures=["Qwen3VLMoeForConditionalGeneration"],
    )
