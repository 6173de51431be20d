"""The operations of RandAugment and AutoAugment on 8-bit images, batched over samples.

torchvision draws one operation a call. Here every sample has its own draws; samples that drew the
same operation and magnitude are computed together, by torchvision's functions for tensors. Those of
these functions that would make the host wait for a GPU, because they send a small tensor to it or
use a mask as an index, are written anew: shear, translation, rotation, sharpness, autocontrast.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.base.devices import sent
from pipeline.base.seeds import Numbers

AFFINE = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
IDENTITY = ("Identity", 0.0)

Operation = tuple[str, float]  # a name of torchvision's, and a magnitude


class Draws(ABC):
    """Draws operations for each sample: `variants` are all that it may draw."""

    variants: list[Operation]
    count: int  # numbers that it takes for each sample

    @abstractmethod
    def __call__(self, numbers: Numbers) -> Tensor:
        """Return the variant (B, steps) of each sample in each step, of numbers (B, count)."""


class RandAugmentDraws(Draws):
    """Equally probable operations of one magnitude, negative for half of those with a sign."""

    def __init__(self, size: int, *, steps: int = 4, magnitude: int = 10) -> None:
        from torchvision.transforms import v2

        policy: Any = v2.RandAugment(steps, magnitude)
        self.count = 2 * steps
        pairs = []
        for name, (magnitudes, signed) in policy._AUGMENTATION_SPACE.items():
            found = magnitudes(policy.num_magnitude_bins, size, size)
            value = 0.0 if found is None else float(found[magnitude])
            pairs.append([(name, -value if signed else value), (name, value)])
        self.variants = [variant for pair in pairs for variant in pair]

    def __call__(self, numbers: Numbers) -> Tensor:
        """Draw operations and signs."""
        operations, signs = np.split(numbers, 2, axis=1)
        return torch.from_numpy(2 * _whole(operations, len(self.variants) // 2) + _whole(signs, 2))


class AutoAugmentDraws(Draws):
    """The ImageNet policy: one of 25 pairs of operations, each with its own probability."""

    count = 5

    def __init__(self, size: int) -> None:
        from torchvision.transforms import v2

        policy: Any = v2.AutoAugment()
        space = policy._AUGMENTATION_SPACE
        self.variants = [IDENTITY]
        steps = [step for pair in policy._policies for step in pair]
        self._probabilities = np.array([p for _, p, _ in steps]).reshape(-1, 2)
        for name, _, number in steps:
            magnitudes, signed = space[name]
            found = magnitudes(10, size, size)
            value = 0.0 if found is None or number is None else float(found[number])
            self.variants += [(name, -value if signed else value), (name, value)]

    def __call__(self, numbers: Numbers) -> Tensor:
        """Draw pairs, whether each of their operations is applied, and signs."""
        pairs = _whole(numbers[:, 0], len(self._probabilities))
        applied = numbers[:, 1:3] <= self._probabilities[pairs]
        variant = 1 + 2 * (2 * pairs[:, None] + np.arange(2)) + _whole(numbers[:, 3:], 2)
        return torch.from_numpy(np.where(applied, variant, 0))


def _whole(numbers: Numbers, below: int) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """Turn numbers in [0, 1) into equally probable integers below a bound."""
    return np.floor(numbers * below).astype(np.int64)


def random_operations(images: Tensor, numbers: Numbers, *, draws: Draws) -> Tensor:
    """Apply drawn operations to images (B, C, S, S) in [0, 1], in 8 bits."""
    pixels = (images * 255).round().to(torch.uint8)
    return apply_operations(pixels, draws.variants, draws(numbers)).float() / 255


@dataclass(frozen=True)
class _Together:
    """The samples that a step computes together: by one function, or each by its own matrix."""

    rows: Tensor
    compute: Callable[[Tensor], Tensor] | None
    matrices: Tensor


def apply_operations(pixels: Tensor, variants: list[Operation], chosen: Tensor) -> Tensor:
    """Apply to each of 8-bit images (B, C, S, S) its variants, `chosen` (B, steps), in order."""
    groups = [group for step in chosen.T for group in _groups(step, variants, pixels.shape[-1])]
    if not groups:
        return pixels
    # What was drawn is sent at once: a GPU would be waited for at each transfer.
    sizes = [len(group.rows) for group in groups]
    rows = torch.split(sent(torch.cat([g.rows for g in groups]), pixels.device), sizes)
    matrices = torch.split(
        sent(torch.cat([g.matrices for g in groups]), pixels.device),
        [len(group.matrices) for group in groups],
    )
    changed = pixels.clone()
    for group, own, matrix in zip(groups, rows, matrices, strict=True):
        part = changed[own]
        changed[own] = group.compute(part) if group.compute else _moved(part, matrix)
    return changed


def _groups(step: Tensor, variants: list[Operation], size: int) -> list[_Together]:
    none = torch.empty(0, 2, 3)
    samples: dict[Operation, list[int]] = {}
    for row, number in enumerate(step.tolist()):
        samples.setdefault(variants[number], []).append(row)
    moved = [
        (row, variant) for variant, own in samples.items() for row in own if variant[0] in AFFINE
    ]
    groups = [
        _Together(torch.tensor(rows), _function(*variant), none)
        for variant, rows in samples.items()
        if variant[0] not in AFFINE and variant[0] != IDENTITY[0]
    ]
    if moved:
        matrices = torch.tensor([_matrix(name, m, size) for _, (name, m) in moved])
        groups.append(_Together(torch.tensor([row for row, _ in moved]), None, matrices))
    return groups


def _function(name: str, magnitude: float) -> Callable[[Tensor], Tensor]:
    """Return an operation on 8-bit images of torchvision, whose magnitudes are these."""
    from torchvision.transforms.v2 import functional as tv

    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "Brightness": lambda x: tv.adjust_brightness(x, 1 + magnitude),
        "Color": lambda x: tv.adjust_saturation(x, 1 + magnitude),
        "Contrast": lambda x: tv.adjust_contrast(x, 1 + magnitude),
        "Sharpness": lambda x: _sharpened(x, 1 + magnitude),
        "Posterize": lambda x: tv.posterize(x, int(magnitude)),
        "Solarize": lambda x: tv.solarize(x, 255.0 * magnitude),
        "AutoContrast": _stretched,
        "Equalize": tv.equalize,
        "Invert": tv.invert,
    }
    return functions[name]


def _stretched(pixels: Tensor) -> Tensor:
    """Map the range of each channel to 0 to 255, unless it has only one value."""
    x = pixels.float()
    low, high = (f(x, (-2, -1), keepdim=True) for f in (torch.amin, torch.amax))
    flat = high == low
    scale = torch.where(flat, 1.0, (high - low) * (1 / 255))
    stretched = (x - torch.where(flat, 0.0, low)) / scale
    return stretched.clamp_(0, 255).to(torch.uint8)


def _sharpened(pixels: Tensor, factor: float) -> Tensor:
    """Blend with the mean of 3 x 3 pixels, in which the centre counts five times; borders stay."""
    x = pixels.float()
    columns = x[..., :-2] + x[..., 1:-1] + x[..., 2:]
    around = columns[..., :-2, :] + columns[..., 1:-1, :] + columns[..., 2:, :]
    inner = x[..., 1:-1, 1:-1]
    blurred = (around.add_(inner, alpha=4) / 13).round_()
    sharpened = x.clone()
    sharpened[..., 1:-1, 1:-1].add_(blurred.sub_(inner), alpha=1 - factor)
    return sharpened.clamp_(0, 255).to(torch.uint8)


def _matrix(name: str, magnitude: float, size: int) -> list[list[float]]:
    """Return the map (2, 3) from a pixel of the result to its source, from the image's centre."""
    if name == "Rotate":
        turn = math.radians(magnitude)
        c, s = math.cos(turn), math.sin(turn)
        return [[c, -s, 0.0], [s, c, 0.0]]
    if name.startswith("Translate"):
        way = float(int(magnitude))
        return [
            [1.0, 0.0, -way * (name == "TranslateX")],
            [0.0, 1.0, -way * (name == "TranslateY")],
        ]
    # A shear keeps the upper left corner of the image in place.
    across, down = (magnitude * (name == f"Shear{axis}") for axis in "XY")
    half = size / 2
    return [[1.0, across, across * half], [down, 1.0, down * half]]


def _moved(pixels: Tensor, matrices: Tensor) -> Tensor:
    """Take for each pixel the nearest one at its source, black outside."""
    S = pixels.shape[-1]
    # Positions of pixels relative to the centre, (S, S, 3)
    along = torch.arange(S, device=pixels.device) + (0.5 - S / 2)
    y, x = torch.meshgrid(along, along, indexing="ij")
    base = torch.stack([x, y, torch.ones_like(x)], dim=-1)
    grid = base.reshape(1, S * S, 3) @ matrices.mT / (S / 2)  # in [-1, 1] within the image
    moved = F.grid_sample(
        pixels.float(), grid.reshape(-1, S, S, 2), mode="nearest", align_corners=False
    )
    return moved.round().to(torch.uint8)
