import random
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import Qwen3VLMoeConfig

from serving.demo.config import model_config
from serving.demo.parameters import initial
from serving.demo.vocabulary import train_tokenizer

# Layers this small gain nothing from a second thread, and wait for it in a loop where other work has the CPU.
torch.set_num_threads(1)

SHAPE: dict[str, Any] = {
    "hidden": 32,
    "text_layers": 2,
    "heads": 2,
    "head_dim": 16,
    "experts": 4,
    "expert_width": 24,
    "vision_layers": 2,
    "vision_hidden": 64,
    "deepstack": (0,),
}


@dataclass(frozen=True)
class Small:
    """A model of the demo's kind with few parameters, random."""

    tokenizer: Tokenizer
    config: Qwen3VLMoeConfig
    parameters: dict[str, torch.Tensor]

    def rng(self) -> random.Random:
        return random.Random(7)


@pytest.fixture(scope="session")
def small() -> Small:
    tokenizer = train_tokenizer(count=300)
    config = model_config(tokenizer, **SHAPE)
    return Small(tokenizer, config, initial(config, seed=1))
