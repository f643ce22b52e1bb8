from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration

from serving.demo.heads import head_shapes

EMBEDDINGS = "model.language_model.embed_tokens.weight"
# Matrices whose output is added to the residual stream start at half size.
RESIDUAL = ("attn.proj", "fc2", "o_proj", "down_proj")


def model_shapes(config: Qwen3VLMoeConfig) -> dict[str, Tensor]:
    """The class's parameters by name, without storage; the head is tied to the embeddings."""
    with torch.device("meta"):
        model = Qwen3VLMoeForConditionalGeneration(config)
    return {name: p.detach() for name, p in model.named_parameters() if name != "lm_head.weight"}


def initial(config: Qwen3VLMoeConfig, seed: int) -> dict[str, Tensor]:
    """Fresh parameters of the model and its auxiliary heads, fp32."""
    generator = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {name: tuple(p.shape) for name, p in model_shapes(config).items()}
    parts: Any = config
    shapes |= head_shapes(parts.vision_config.hidden_size, parts.text_config.hidden_size)
    return {name: fresh(name, shape, generator) for name, shape in shapes.items()}


def fresh(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if len(shape) == 1:
        return torch.ones(shape) if "norm" in name and name.endswith("weight") else torch.zeros(shape)
    values = torch.randn(shape, generator=generator)
    if "embed_tokens" in name or "pos_embed" in name:
        return values * 0.02
    fan_in = shape[-1] if len(shape) < 4 else values[0].numel()
    scale = 0.5 if any(part in name for part in RESIDUAL) or "gate.weight" in name else 0.3 if "aux" in name else 1.0
    return values.mul(scale * fan_in**-0.5)


def carry_embeddings(old: Tensor, old_tokenizer: Tokenizer, tokenizer: Tokenizer) -> Tensor:
    """Rows of `old` [V, d] for another vocabulary: a token that was several is the mean of their rows."""
    rows, known = [], old_tokenizer.get_vocab()
    for index in range(tokenizer.get_vocab_size()):
        token = tokenizer.id_to_token(index) or ""
        parts = [known[token]] if token in known else old_tokenizer.encode(tokenizer.decode([index])).ids
        rows.append(old[parts].mean(0) if parts else old.mean(0))
    return torch.stack(rows)


def start_from(state: Mapping[str, Tensor], old: Tokenizer | None, tokenizer: Tokenizer) -> dict[str, Tensor]:
    """`state` with its embeddings carried over from the vocabulary `old`, where that is another."""
    carried = dict(state)
    if old is not None and EMBEDDINGS in carried:
        carried[EMBEDDINGS] = carry_embeddings(carried[EMBEDDINGS], old, tokenizer)
    return carried
