"""Auxiliary heads: what a patch or an image token must know, taught where the renderer knows the answer.

They exist in training alone. Three are read: the printed characters under each patch (in 4 x 8 px slots, from
the middle of the vision tower), the role of each character (from its end), and, from each image token, whole
labels whose centre it holds: role, period and the digits a reader must answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from serving.demo.charts.canvas import Label, Role
from serving.demo.network import BLOCK, rounded

PRINTED = "0123456789.%-"
OTHER_CHARACTER = len(PRINTED) + 1
CHARACTER_CLASSES = len(PRINTED) + 2
PLACE_CLASSES = 8
PERIODS = 6
ROLE_CLASSES = 2 + 3 * PERIODS
READ = "0123456789.-"
LETTER_CLASSES = len(READ) + 1
LETTERS = 7
SLOTS = 8
BANDS = 2
LABEL_WIDTH = BANDS * (ROLE_CLASSES + LETTERS * LETTER_CLASSES)

PATCH_HEADS = {"aux.0": CHARACTER_CLASSES, "aux.1": ROLE_CLASSES, "aux.2": PLACE_CLASSES}
Grid = NDArray[np.uint8]


def head_shapes(vision_hidden: int, hidden: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name, classes in PATCH_HEADS.items():
        shapes[f"{name}.w"], shapes[f"{name}.b"] = (SLOTS * classes, vision_hidden), (SLOTS * classes,)
    shapes["auxl.w"], shapes["auxl.b"] = (LABEL_WIDTH, hidden), (LABEL_WIDTH,)
    return shapes


@dataclass(frozen=True)
class Targets:
    """`characters` [3, H / 8, W / 4]: character, role and place in its text, 0 for none.

    `labels` [H / 16, W / 32, 1 + LETTERS]: role (0 none), then the letters of the reading, 0 after its end.
    """

    characters: Grid
    labels: Grid


def role_class(role: Role, index: int) -> int:
    return 1 if role is Role.OTHER else 2 + (role - 1) * PERIODS + index


def targets(labels: Iterable[Label], width: int, height: int) -> Targets:
    characters = np.zeros((3, height // 8, width // 4), np.uint8)
    read = np.zeros((height // 16, width // 32, 1 + LETTERS), np.uint8)
    for label in sorted(labels, key=lambda label: label.role):
        role = role_class(label.role, label.index)
        for place, (x, y, character) in enumerate(label.characters):
            row, column = int(y // 8), int(x // 4)
            if 0 <= row < characters.shape[1] and 0 <= column < characters.shape[2]:
                found = PRINTED.find(character) + 1
                characters[:, row, column] = found or OTHER_CHARACTER, role, 1 + min(place, PLACE_CLASSES - 2)
        row, column = int(label.y // 16), int(label.x // 32)
        if label.reading and 0 <= row < read.shape[0] and 0 <= column < read.shape[1]:
            letters = [READ.index(letter) + 1 for letter in label.reading[:LETTERS]]
            read[row, column] = [role, *letters, *[0] * (LETTERS - len(letters))]
    return Targets(characters, read)


def weighted_loss(logits: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    losses = F.cross_entropy(logits.flatten(0, -2).float(), truth.flatten(), reduction="none")
    return (losses * weight.flatten()).sum() / weight.sum().clamp(min=1)


def patch_loss(
    features: Tensor, characters: Tensor, names: Iterable[str], parameters: Mapping[str, Tensor]
) -> tuple[Tensor, list[float]]:
    """Loss and accuracy on printed slots. `features` [B, N, d]; `characters` uint8 [B, 3, H / 8, W / 4]."""
    b, n, d = features.shape
    rows, columns = characters.shape[2:]
    truth = characters.view(b, 3, rows // 4, 2, 2, columns // 8, 2, 4).permute(0, 2, 5, 3, 6, 1, 4, 7)
    truth = truth.reshape(b * n, 3, SLOTS).long()
    # Patches without text are many and easy: a few of them are enough.
    kept = whole_blocks((truth[:, 0] > 0).any(1))
    x, truth = features.reshape(-1, d)[kept], truth[kept]
    total, accuracies = features.new_zeros((), dtype=torch.float32), []
    for name in names:
        kind = int(name[-1])
        logits = F.linear(x, parameters[f"{name}.w"], parameters[f"{name}.b"]).view(-1, SLOTS, PATCH_HEADS[name])
        printed = truth[:, kind] > 0
        total = total + weighted_loss(logits, truth[:, kind], torch.where(printed, 1.0, 0.15))
        accuracies.append(float((logits.argmax(-1) == truth[:, kind])[printed].float().mean()))
    return total, accuracies


def whole_blocks(wanted: Tensor) -> Tensor:
    """Indices of all True in `wanted` [N], filled up to whole blocks by some of the False."""
    count = int(wanted.sum())
    filled = min(len(wanted), rounded(count + BLOCK))
    noise = torch.rand(len(wanted), device=wanted.device)
    return (wanted + noise).topk(filled).indices


@dataclass(frozen=True)
class LabelScore:
    loss: Tensor
    role: float
    letters: float
    whole: float


def label_loss(tokens: Tensor, labels: Tensor, parameters: Mapping[str, Tensor]) -> LabelScore:
    """`tokens` [B, M, hidden]; `labels` uint8 [B, H / 16, W / 32, 1 + LETTERS].

    Scores are shares of labels: right role and period, right letters (of letters), all of it right.
    """
    b, m, d = tokens.shape
    rows, columns = labels.shape[1:3]
    truth = labels.view(b, rows // 2, 2, columns, 1 + LETTERS).permute(0, 1, 3, 2, 4).reshape(b * m, BANDS, -1).long()
    kept = whole_blocks((truth[..., 0] > 0).any(1))
    truth = truth[kept]
    logits = F.linear(tokens.reshape(-1, d)[kept], parameters["auxl.w"], parameters["auxl.b"]).view(
        len(kept), BANDS, -1
    )
    roles, letters = logits[..., :ROLE_CLASSES], logits[..., ROLE_CLASSES:].reshape(-1, BANDS, LETTERS, LETTER_CLASSES)
    labelled = truth[..., 0] > 0
    loss = weighted_loss(roles, truth[..., 0], torch.where(labelled, 1.0, 0.3))
    loss = loss + 3 * weighted_loss(
        letters[labelled], truth[..., 1:][labelled], torch.ones_like(truth[..., 1:][labelled]).float()
    )
    role_right = (roles.argmax(-1) == truth[..., 0])[labelled]
    letters_right = (letters.argmax(-1) == truth[..., 1:])[labelled]
    whole = (role_right & letters_right.all(-1)).float().mean()
    printed = letters_right[truth[..., 1:][labelled] > 0].float().mean()
    return LabelScore(loss, float(role_right.float().mean()), float(printed), float(whole))
