"""Muon for the matrices, Adam for the rest, over one flat buffer of fp32 masters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

NOT_MUON = ("embed", "mlp.gate.weight", "aux")


def is_matrix(name: str, shape: torch.Size) -> bool:
    return len(shape) in (2, 3) and not any(part in name for part in NOT_MUON)


@dataclass
class Flat:
    """Named fp32 masters in one buffer, and their working copies of another dtype in a second.

    Matrices that Muon steps come last, from `matrices` on.
    """

    names: list[str]
    shapes: list[torch.Size]
    offsets: list[int]
    masters: Tensor
    working: Tensor
    gradients: Tensor
    matrices: int

    @classmethod
    def of(cls, named: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype) -> Flat:
        order = sorted(named, key=lambda name: is_matrix(name, named[name].shape))
        offsets, matrices = [0], 0
        for name in order:
            matrices = offsets[-1] if is_matrix(name, named[name].shape) and not matrices else matrices
            offsets.append(offsets[-1] + named[name].numel())
        masters = torch.cat([named[name].detach().float().flatten() for name in order]).to(device)
        working = masters.to(dtype)
        shapes = [named[name].shape for name in order]
        return cls(order, shapes, offsets, masters, working, torch.zeros_like(working), matrices)

    def view(self, buffer: Tensor, index: int, start: int = 0) -> Tensor:
        return buffer[self.offsets[index] - start : self.offsets[index + 1] - start].view(self.shapes[index])

    def leaves(self) -> dict[str, Tensor]:
        """Working copies as leaf tensors whose gradients land in `gradients`."""
        leaves = {}
        for index, name in enumerate(self.names):
            leaf = self.view(self.working, index).detach().requires_grad_()
            leaf.grad = self.view(self.gradients, index)
            leaves[name] = leaf
        return leaves

    def state(self, buffer: Tensor | None = None) -> dict[str, Tensor]:
        source = self.masters if buffer is None else buffer
        return {name: self.view(source, index).clone().cpu() for index, name in enumerate(self.names)}

    def load(self, state: Mapping[str, Tensor]) -> list[str]:
        """Copies what `state` holds in the same shape; returns the names it lacks."""
        missing = []
        for index, name in enumerate(self.names):
            if name in state and state[name].shape == self.shapes[index]:
                self.view(self.masters, index).copy_(state[name])
            else:
                missing.append(name)
        self.working.copy_(self.masters)
        return missing


def orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """Newton-Schulz: the nearest (semi-)orthogonal matrices to `matrices` [..., m, n], roughly."""
    x: Tensor = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if tall else x


@dataclass
class Optimiser:
    """Each of `processes` orthogonalises its share of the matrices; all end a step with the same masters."""

    flat: Flat
    rank: int = 0
    processes: int = 1
    decay: float = 0.02
    average: float = 0.99
    steps: int = 0
    momentum: Tensor = field(init=False)
    second: Tensor = field(init=False)
    averaged: Tensor = field(init=False)
    decays: Tensor = field(init=False)
    groups: dict[tuple[int, ...], list[int]] = field(init=False)

    def __post_init__(self) -> None:
        flat = self.flat
        self.momentum = torch.zeros_like(flat.masters)
        self.second = torch.zeros_like(flat.masters[: flat.matrices])
        self.averaged = flat.masters.clone()
        self.decays = torch.zeros_like(flat.masters)
        self.groups = {}
        for index, (name, shape) in enumerate(zip(flat.names, flat.shapes, strict=True)):
            if len(shape) >= 2 and "embed" not in name:
                flat.view(self.decays, index).fill_(self.decay)
            if is_matrix(name, shape):
                self.groups.setdefault(muon_shape(name, shape), []).append(index)

    @torch.no_grad()
    def step(self, rate: float, clip: float = 1.0) -> float:
        """One step on `flat.gradients`, which it zeroes; returns their norm. A step not finite is skipped."""
        flat, gradients = self.flat, self.flat.gradients.float()
        flat.gradients.zero_()
        norm = float(gradients.norm())
        if not math.isfinite(norm):
            return norm
        self.steps += 1
        gradients.mul_(min(1.0, clip / (norm + 1e-6)))
        flat.masters.addcmul_(flat.masters, self.decays, value=-rate)
        self._adam(gradients[: flat.matrices], rate)
        self._muon(gradients[flat.matrices :], rate)
        flat.working.copy_(flat.masters)
        self.averaged.lerp_(flat.masters, 1 - min(self.average, self.steps / (self.steps + 10)))
        return norm

    def _adam(self, gradients: Tensor, rate: float, beta1: float = 0.9, beta2: float = 0.98) -> None:
        first = self.momentum[: self.flat.matrices].lerp_(gradients, 1 - beta1)
        self.second.mul_(beta2).addcmul_(gradients, gradients, value=1 - beta2)
        scale = (self.second / (1 - beta2**self.steps)).sqrt_().add_(1e-8)
        self.flat.masters[: self.flat.matrices].addcdiv_(first, scale, value=-rate / (1 - beta1**self.steps))

    def _muon(self, gradients: Tensor, rate: float, momentum: float = 0.95) -> None:
        flat, first = self.flat, self.momentum[self.flat.matrices :]
        first.lerp_(gradients, 1 - momentum)
        gradients.lerp_(first, momentum)
        updates = torch.zeros_like(gradients)
        for shape, indices in self.groups.items():
            mine = indices[self.rank :: self.processes]
            if not mine:
                continue
            stack = torch.stack([flat.view(gradients, index, flat.matrices).reshape(shape) for index in mine])
            for index, update in zip(mine, orthogonal(stack).float(), strict=True):
                scaled = update.mul_(0.2 * max(shape[-2:]) ** 0.5)
                flat.view(updates, index, flat.matrices).view(shape).copy_(scaled)
        if self.processes > 1:
            dist.all_reduce(updates)
        flat.masters[flat.matrices :].sub_(updates, alpha=rate)

    def state(self) -> dict[str, Any]:
        tensors = {"momentum": self.momentum, "second": self.second, "averaged": self.averaged}
        return {"steps": self.steps, "masters": self.flat.masters, **tensors}

    def load(self, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"]
        self.flat.masters.copy_(state["masters"])
        self.flat.working.copy_(self.flat.masters)
        for name in ("momentum", "second", "averaged"):
            getattr(self, name).copy_(state[name])


def muon_shape(name: str, shape: torch.Size) -> tuple[int, ...]:
    """Query, key and value of a joint matrix are orthogonalised each on its own."""
    if "attn.qkv" in name:
        return (3, shape[0] // 3, shape[1])
    return (1, *shape) if len(shape) == 2 else tuple(shape)
