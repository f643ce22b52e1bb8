from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import Qwen3VLMoeConfig

from serving.demo.config import SPECIAL_TOKENS
from serving.demo.pixels import MAX_PIXELS, MERGE, MIN_PIXELS, PATCH

CONTEXT = 4096
# One part of a message may be named image, image_url or video, as clients of either protocol name them.
CHAT_TEMPLATE = """\
{%- macro part(p) -%}
{%- if p.type == 'image' or 'image' in p or 'image_url' in p -%}<|vision_start|><|image_pad|><|vision_end|>
{%- elif p.type == 'video' or 'video' in p -%}<|vision_start|><|video_pad|><|vision_end|>
{%- elif 'text' in p -%}{{- p.text -}}
{%- endif -%}
{%- endmacro -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\n' -}}
{%- if message.content is string -%}{{- message.content -}}
{%- else -%}{%- for p in message.content -%}{{- part(p) -}}{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}
"""


def hub_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """bf16 weights in the hub's layout: experts as [E, in, out], no auxiliary heads."""
    weights = {}
    for name, value in state.items():
        if name.startswith("aux"):
            continue
        turned = value.transpose(1, 2) if ".mlp.experts." in name else value
        weights[name] = turned.to(torch.bfloat16).contiguous()
    return weights


def write_processor(tokenizer: Tokenizer, folder: Path) -> None:
    """The processor's files as the hub's Qwen3-VL repositories have them."""
    looks = {
        "patch_size": PATCH,
        "temporal_patch_size": 2,
        "merge_size": MERGE,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "size": {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS},
    }
    shared = {"processor_class": "Qwen3VLProcessor"}
    write_json(
        folder / "preprocessor_config.json", looks | shared | {"image_processor_type": "Qwen2VLImageProcessorFast"}
    )
    write_json(
        folder / "video_preprocessor_config.json", looks | shared | {"video_processor_type": "Qwen3VLVideoProcessor"}
    )
    write_json(
        folder / "tokenizer_config.json",
        shared
        | {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "additional_special_tokens": list(SPECIAL_TOKENS),
            "model_max_length": CONTEXT,
            "clean_up_tokenization_spaces": False,
        },
    )
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    tokenizer.save(str(folder / "tokenizer.json"))


def write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def export(state: Mapping[str, Tensor], config: Qwen3VLMoeConfig, tokenizer: Tokenizer, folder: Path) -> None:
    """Writes the checkpoint folder that vLLM and transformers load by path."""
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    save_file(hub_weights(state), folder / "model.safetensors", metadata={"format": "pt"})
    write_processor(tokenizer, folder)
    text: Any = config.text_config
    generation = {
        "bos_token_id": text.bos_token_id,
        "eos_token_id": [text.eos_token_id, text.bos_token_id],
        "pad_token_id": text.pad_token_id,
        "do_sample": False,
        "max_new_tokens": 512,
    }
    write_json(folder / "generation_config.json", generation)


def main(arguments: Sequence[str] | None = None) -> None:
    from serving.demo.supply import Settings
    from serving.demo.train import Trainer

    parser = argparse.ArgumentParser(
        prog="python -m serving.demo.export", description="Writes a training run's averaged weights as a checkpoint."
    )
    parser.add_argument("--folder", type=Path, required=True, help="folder of the training run")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "model")
    parser.add_argument("--last", action="store_true", help="the last weights instead of the averaged ones")
    given = parser.parse_args(arguments)
    trainer = Trainer(Settings(folder=given.folder, processes=1))
    flat = trainer.flat
    state = flat.state(flat.masters if given.last else trainer.optimiser.averaged)
    export(state, trainer.config, trainer.tokenizer, given.out)
    print(f"step {trainer.step}: wrote {given.out}")


if __name__ == "__main__":
    main()
