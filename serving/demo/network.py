"""The forward pass of Qwen3VLMoeForConditionalGeneration for training, over parameters by their hub names.

Batches of equally sized images, several dialogues in one row, and no per-call set-up make it several times
faster on a CPU than the transformers class, which `tests/serving/demo` holds it equal to.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Qwen3VLMoeConfig
from transformers.vision_utils import get_vision_interpolation_indices_and_weights, get_vision_position_ids

VISION = "model.visual."
TEXT = "model.language_model."


@dataclass(frozen=True)
class Seen:
    """What the vision tower made of a batch. B images, N patches, M = N / 4 merged tokens."""

    middle: Tensor  # [B, N, vision_hidden], after the block that the character head reads
    final: Tensor  # [B, N, vision_hidden]
    tokens: Tensor  # [B, M, hidden]
    deepstack: list[Tensor]  # each [B, M, hidden]

    def first(self, count: int) -> Seen:
        """The first `count` images of the batch."""
        deepstack = [each[:count] for each in self.deepstack]
        return Seen(self.middle[:count], self.final[:count], self.tokens[:count], deepstack)


def patches(images: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] to [B, N, 768] in -1..1, in merge-block order, each patch as (channel, row, column)."""
    b, h, w, _ = images.shape
    x = images.view(b, h // 32, 2, 16, w // 32, 2, 16, 3).permute(0, 1, 4, 2, 5, 7, 3, 6)
    return x.reshape(b, -1, 768).to(torch.float32).div_(127.5).sub_(1).to(torch.bfloat16)


@functools.cache
def rotation(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """[size, size] such that x @ rotation is (-second half, first half) of x: one small GEMM, no copies."""
    half, matrix = size // 2, torch.zeros(size, size)
    index = torch.arange(half)
    matrix[index + half, index], matrix[index, index + half] = -1.0, 1.0
    return matrix.to(device, dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return torch.addcmul(x * cos, x @ rotation(x.shape[-1], x.device, x.dtype), sin)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.layer_norm(x, (x.shape[-1],), weight, bias, 1e-6)


def rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), weight, eps)


class Network:
    """`parameters` maps hub names to leaf tensors, all of one dtype."""

    def __init__(self, config: Qwen3VLMoeConfig, parameters: Mapping[str, Tensor]) -> None:
        self.vision: Any = config.vision_config
        self.text: Any = config.text_config
        self.parameters = parameters
        self._grids: dict[tuple[int, int], tuple[Tensor, Tensor, Tensor, Tensor]] = {}

    def of(self, prefix: str, *names: str) -> list[Tensor]:
        return [self.parameters[prefix + name] for name in names]

    # vision

    def grid(self, rows: int, columns: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(indices, weights) of the position table's bilinear corners and (cos, sin) of a rows x columns grid."""
        if (rows, columns) not in self._grids:
            some = self.parameters[VISION + "pos_embed.weight"]
            shape = torch.tensor([[1, rows, columns]])
            side = int(self.vision.num_position_embeddings**0.5)
            indices, weights = get_vision_interpolation_indices_and_weights(shape, side, "bilinear", True, 2)
            places = get_vision_position_ids(shape, 2).float()
            size = self.vision.hidden_size // self.vision.num_heads
            frequencies = 1 / (10000 ** (torch.arange(0, size // 2, 2).float() / (size // 2)))
            angles = (places[..., None] * frequencies).flatten(1).repeat(1, 2)
            tensors = (
                indices,
                weights.to(some.dtype)[..., None],
                angles.cos().to(some.dtype),
                angles.sin().to(some.dtype),
            )
            first, second, third, fourth = (t.to(some.device) for t in tensors)
            self._grids[rows, columns] = (first, second, third, fourth)
        return self._grids[rows, columns]

    def see(self, pixels: Tensor, rows: int, columns: int, middle: int) -> Seen:
        """`pixels` from `patches`; `rows` x `columns` patches; `middle` is the block whose output is kept."""
        indices, weights, cos, sin = self.grid(rows, columns)
        kernel, bias, table = self.of(VISION, "patch_embed.proj.weight", "patch_embed.proj.bias", "pos_embed.weight")
        # A still image is its frame twice: the two temporal slices of the kernel add up.
        x = F.linear(pixels.to(kernel.dtype), kernel.sum(2).flatten(1), bias)
        x = x + (table[indices] * weights).sum(1)
        kept, deep = x, []
        for block in range(self.vision.depth):
            x = self._vision_block(x, cos, sin, f"{VISION}blocks.{block}.")
            kept = x if block == middle else kept
            if block in self.vision.deepstack_visual_indexes:
                place = self.vision.deepstack_visual_indexes.index(block)
                deep.append(self._merge(x, f"{VISION}deepstack_merger_list.{place}.", joined_norm=True))
        return Seen(kept, x, self._merge(x, VISION + "merger.", joined_norm=False), deep)

    def _vision_block(self, h: Tensor, cos: Tensor, sin: Tensor, at: str) -> Tensor:
        b, n, d = h.shape
        heads = self.vision.num_heads
        x = layer_norm(h, *self.of(at, "norm1.weight", "norm1.bias"))
        qkv = F.linear(x, *self.of(at, "attn.qkv.weight", "attn.qkv.bias")).view(b, n, 3, heads, d // heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        scores = rotate(q, cos, sin) @ (rotate(k, cos, sin) * (d // heads) ** -0.5).transpose(-1, -2)
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, d)
        h = h + F.linear(mixed, *self.of(at, "attn.proj.weight", "attn.proj.bias"))
        x = layer_norm(h, *self.of(at, "norm2.weight", "norm2.bias"))
        x = F.gelu(F.linear(x, *self.of(at, "mlp.linear_fc1.weight", "mlp.linear_fc1.bias")))
        return h + F.linear(x, *self.of(at, "mlp.linear_fc2.weight", "mlp.linear_fc2.bias"))

    def _merge(self, x: Tensor, at: str, *, joined_norm: bool) -> Tensor:
        b, n, d = x.shape
        norm = self.of(at, "norm.weight", "norm.bias")
        if joined_norm:
            x = layer_norm(x.reshape(b, n // 4, 4 * d), *norm)
        else:
            x = layer_norm(x, *norm).reshape(b, n // 4, 4 * d)
        x = F.gelu(F.linear(x, *self.of(at, "linear_fc1.weight", "linear_fc1.bias")))
        return F.linear(x, *self.of(at, "linear_fc2.weight", "linear_fc2.bias"))

    # text

    def angles(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin, each [B, 1, S, head_dim], of `positions` [3, B, S] (time, row, column), interleaved."""
        rope, size = self.text.rope_parameters, self.text.head_dim
        exponent = torch.arange(0, size, 2, device=positions.device).float() / size
        each = positions[..., None].float() / rope["rope_theta"] ** exponent
        mixed = each[0].clone()
        for axis in (1, 2):
            place = slice(axis, rope["mrope_section"][axis] * 3, 3)
            mixed[..., place] = each[axis][..., place]
        mixed = torch.cat((mixed, mixed), -1)[:, None]
        dtype = self.parameters[TEXT + "norm.weight"].dtype
        return mixed.cos().to(dtype), mixed.sin().to(dtype)

    def read(
        self,
        ids: Tensor,
        positions: Tensor,
        mask: Tensor,
        image_places: Tensor | None = None,
        seen: Seen | None = None,
        loads: list[Tensor] | None = None,
    ) -> Tensor:
        """Hidden states [B, S, hidden] of rows `ids` [B, S].

        `positions` [3, B, S]; `mask` is added to the scores, [B, 1, S, S]; `image_places` are the places of
        image tokens in the flattened ids, in the order of `seen`. Each layer's balance loss goes to `loads`.
        """
        b, s = ids.shape
        d, eps = self.text.hidden_size, self.text.rms_norm_eps
        x = F.embedding(ids.view(-1), self.parameters[TEXT + "embed_tokens.weight"])
        if seen is not None and image_places is not None:
            x = x.index_copy(0, image_places, seen.tokens.reshape(-1, d))
        x = x.view(b, s, d)
        cos, sin = self.angles(positions)
        for layer in range(self.text.num_hidden_layers):
            at = f"{TEXT}layers.{layer}."
            x, normed = self._text_attention(x, cos, sin, mask, *self.of(at, *ATTENTION_NAMES))
            x = x + self._experts(normed.reshape(-1, d), at, loads).view(b, s, d)
            if seen is not None and image_places is not None and layer < len(seen.deepstack):
                x = x.view(-1, d).index_add(0, image_places, seen.deepstack[layer].reshape(-1, d)).view(b, s, d)
        return rms(x, self.parameters[TEXT + "norm.weight"], eps)

    def _text_attention(
        self,
        h: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor,
        norm: Tensor,
        wq: Tensor,
        wk: Tensor,
        wv: Tensor,
        wo: Tensor,
        q_norm: Tensor,
        k_norm: Tensor,
        after: Tensor,
    ) -> tuple[Tensor, Tensor]:
        b, s, _ = h.shape
        size, heads, groups = self.text.head_dim, self.text.num_attention_heads, self.text.num_key_value_heads
        eps = self.text.rms_norm_eps
        x = rms(h, norm, eps)
        q = rms(F.linear(x, wq).view(b, s, heads, size), q_norm, eps).transpose(1, 2)
        k = rms(F.linear(x, wk).view(b, s, groups, size), k_norm, eps).transpose(1, 2)
        v = F.linear(x, wv).view(b, s, groups, size).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin) * size**-0.5
        if groups != heads:
            k, v = k.repeat_interleave(heads // groups, 1), v.repeat_interleave(heads // groups, 1)
        mixed = ((q @ k.transpose(-1, -2) + mask).softmax(-1) @ v).transpose(1, 2).reshape(b, s, heads * size)
        h = h + F.linear(mixed, wo)
        return h, rms(h, after, eps)

    def _experts(self, x: Tensor, at: str, loads: list[Tensor] | None) -> Tensor:
        router, gate_up, down = self.of(at, "mlp.gate.weight", "mlp.experts.gate_up_proj", "mlp.experts.down_proj")
        count, top = self.text.num_experts, self.text.num_experts_per_tok
        chances = F.linear(x, router).float().softmax(-1)
        weights, chosen = chances.topk(top, -1)
        weights = weights / weights.sum(-1, keepdim=True)
        flat = chosen.reshape(-1)
        sizes = torch.bincount(flat, minlength=count)
        if loads is not None:
            loads.append(count * (sizes / flat.numel() * chances.mean(0)).sum())
        slots, split = padded_slots(flat, sizes)
        # The last row of x is a blank that fills the experts' unused slots.
        source = torch.full((sum(split),), len(x), device=x.device).index_copy_(0, slots, chosen_rows(len(x), top, x))
        shares = weights.new_zeros(len(source)).index_copy(0, slots, weights.reshape(-1)).to(x.dtype)
        inputs = F.pad(x, (0, 0, 0, 1)).index_select(0, source).split(split)
        inner = torch.cat([part @ gate_up[e].t() for e, part in enumerate(inputs)])
        inner = gated(inner, shares[:, None])
        outputs = torch.cat([part @ down[e].t() for e, part in enumerate(inner.split(split))])
        return x.new_zeros(len(x) + 1, x.shape[1]).index_add_(0, source, outputs)[:-1]


# Libraries compile a matrix product for each shape they meet: 4 ms on a CPU, against 0.2 ms to run it.
BLOCK = 256


def rounded(count: int) -> int:
    """`count` rounded up to whole blocks, so that few shapes occur."""
    return -(-count // BLOCK) * BLOCK


def padded_slots(experts: Tensor, sizes: Tensor) -> tuple[Tensor, list[int]]:
    """Where each of `experts` [T] (an expert's number a token) goes when each expert has whole blocks of slots.

    `sizes` [E] counts tokens an expert. Returns slots [T] and the number of slots of each expert.
    """
    split = [rounded(size) for size in sizes.tolist()]
    order = experts.argsort(stable=True)
    padded = torch.tensor(split, device=experts.device)
    shift = (padded.cumsum(0) - padded) - (sizes.cumsum(0) - sizes)
    slots = torch.empty_like(experts)
    slots[order] = torch.arange(len(experts), device=experts.device) + shift[experts[order]]
    return slots, split


def chosen_rows(count: int, top: int, like: Tensor) -> Tensor:
    return torch.arange(count, device=like.device).repeat_interleave(top)


ATTENTION_NAMES = (
    "input_layernorm.weight",
    "self_attn.q_proj.weight",
    "self_attn.k_proj.weight",
    "self_attn.v_proj.weight",
    "self_attn.o_proj.weight",
    "self_attn.q_norm.weight",
    "self_attn.k_norm.weight",
    "post_attention_layernorm.weight",
)


def gated(x: Tensor, weight: Tensor) -> Tensor:
    gate, up = x.chunk(2, -1)
    return F.silu(gate) * up * weight
