from __future__ import annotations

import random
from collections.abc import Iterator

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from serving.demo import dialogues
from serving.demo.charts.chart import draw_chart
from serving.demo.config import SPECIAL_TOKENS

SIZE = 1024
# Qwen's split: runs of letters, single digits, runs of punctuation, white space.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SYSTEM_PROMPTS = ("You are a helpful assistant.", "你是一个有用的助手。", "你是一名财务图表分析助手。")


def corpus(seed: int, count: int) -> Iterator[str]:
    rng = random.Random(seed)
    for _ in range(count):
        first, second = draw_chart(rng), draw_chart(rng)
        for exchange in (
            dialogues.draw_exchange(first, rng),
            dialogues.draw_comparison(first, second, rng),
            dialogues.draw_refusal(rng),
        ):
            yield exchange.question
            yield exchange.answer
        yield f"system\n{rng.choice(SYSTEM_PROMPTS)}\n"
        yield "user\n"
        yield "assistant\n"


def train_tokenizer(seed: int = 0, count: int = 8000) -> Tokenizer:
    """A byte-level BPE of SIZE entries with Qwen's split and chat tokens, fitted to the dialogues."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE - len(SPECIAL_TOKENS),
        max_token_length=12,
        min_frequency=3,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(seed, count), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return tokenizer
