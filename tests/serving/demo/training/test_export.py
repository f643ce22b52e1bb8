from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, Qwen3VLMoeForConditionalGeneration

from serving.demo.export import export
from serving.demo.parameters import EMBEDDINGS
from tests.serving.demo.training.conftest import Small


def test_an_exported_checkpoint_loads_with_the_same_weights(small: Small, tmp_path: Path) -> None:
    export(small.parameters, small.config, small.tokenizer, tmp_path)
    model: Any = Qwen3VLMoeForConditionalGeneration
    loaded, report = model.from_pretrained(tmp_path, dtype=torch.bfloat16, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    held = loaded.state_dict()
    for name, value in small.parameters.items():
        if not name.startswith("aux"):
            assert torch.equal(held[name], value.to(torch.bfloat16)), name
    assert loaded.generation_config.eos_token_id[0] == small.tokenizer.token_to_id("<|im_end|>")


def test_experts_are_in_the_layout_of_the_hub(small: Small, tmp_path: Path) -> None:
    export(small.parameters, small.config, small.tokenizer, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    text: Any = small.config.text_config
    experts = "model.language_model.layers.0.mlp.experts."
    width = text.moe_intermediate_size
    assert weights[experts + "gate_up_proj"].shape == (text.num_experts, text.hidden_size, 2 * width)
    assert weights[experts + "down_proj"].shape == (text.num_experts, width, text.hidden_size)
    assert EMBEDDINGS in weights
    assert not any(name.startswith("aux") for name in weights)


def test_the_chat_template_takes_parts_of_either_protocol(small: Small, tmp_path: Path) -> None:
    export(small.parameters, small.config, small.tokenizer, tmp_path)
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path)
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": [part, {"type": "text", "text": "Hi"}]}],
            tokenize=False,
            add_generation_prompt=True,
        )
        for part in ({"type": "image"}, {"type": "image_url", "image_url": {"url": "x"}}, {"image": "x"})
    ]
    turn = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Hi<|im_end|>\n<|im_start|>assistant\n"
    assert texts == [turn] * 3
    assert tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False) == (
        "<|im_start|>user\nHi<|im_end|>\n"
    )
