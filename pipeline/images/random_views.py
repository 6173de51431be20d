"""Random views: batched augmentation with a separate draw for each sample, on any device.

Policies (the released recipes, with their operations in the order of application):

    custom       resized crop, flip, colour jitter (p .8), grey (p .2), Gaussian blur
    cifar20      colour jitter (p .8), grey (p .1), bicubic resized crop, flip
    cifar        crop with 4 pixels of padding, flip
    randaugment  resized crop, 4 operations of magnitude 10 (torchvision's RandAugment)
    autoaugment  resized crop, torchvision's AutoAugment with its ImageNet policy

Each operation computes what torchvision's does for one image, but with parameters drawn for
each sample of a batch. Neither torchvision nor kornia can do this. torchvision draws once per
call. kornia chooses the order of the jitter, and the operations of its RandAugment, once per
batch; its crop that equals torchvision's loops over samples (`benchmarks/views.py` compares the
speeds). The operations of the last two policies compute in 8 bits.

Draws come from torch's global CPU generator on every device, so one seed gives one sequence of
views.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from pipeline.base.options import Options
from pipeline.images.drawn_operations import (
    AutoAugmentDraws,
    Draws,
    RandAugmentDraws,
    random_operations,
)
from pipeline.images.original_view import ImageOptions
from pipeline.images.view_operations import (
    Step,
    random_blur,
    random_grey,
    random_jitter,
    random_padded_crop,
    random_resized_crop,
)

Probability = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class Policy:
    """The operations of a policy; those that it lacks are None or 0."""

    min_scale: float | None = None  # of a resized crop, as a share of the area; None: padded crop
    cubic: bool = False
    flip_p: float = 0.0
    jitter: tuple[float, float, float, float] | None = None
    grey_p: float = 0.0
    blur: bool = False
    colour_first: bool = False
    operations: Literal["randaugment", "autoaugment"] | None = None


POLICIES = {
    "custom": Policy(0.08, flip_p=0.5, jitter=(0.8, 0.8, 0.8, 0.2), grey_p=0.2, blur=True),
    "cifar20": Policy(
        0.2, cubic=True, flip_p=0.5, jitter=(0.4, 0.4, 0.4, 0.1), grey_p=0.1, colour_first=True
    ),
    "cifar": Policy(flip_p=0.5),
    "randaugment": Policy(0.08, operations="randaugment"),
    "autoaugment": Policy(0.08, operations="autoaugment"),
}


OPERATIONS: dict[str, Callable[[int], Draws]] = {
    "randaugment": RandAugmentDraws,
    "autoaugment": AutoAugmentDraws,
}


class AugmentationOptions(Options):
    """A policy, and strengths that replace the policy's own."""

    policy: Literal["custom", "cifar20", "cifar", "randaugment", "autoaugment"] = "custom"
    min_scale: Annotated[float, Field(gt=0, le=1)] | None = None  # smallest share of the area
    flip_p: Probability | None = None
    jitter: Annotated[float, Field(ge=0, le=2)] | None = None  # multiplies all four strengths
    grey_p: Probability | None = None

    @model_validator(mode="after")
    def _policy_has_them(self) -> "AugmentationOptions":
        policy = POLICIES[self.policy]
        if self.min_scale is not None and policy.min_scale is None:
            raise ValueError(f"policy {self.policy} has no resized crop, so it takes no min_scale")
        if policy.jitter is None and (self.jitter is not None or self.grey_p is not None):
            raise ValueError(
                f"policy {self.policy} has no colour jitter, so it takes neither jitter nor grey_p"
            )
        return self


def build_augmentation(options: AugmentationOptions, image: ImageOptions) -> nn.Module:
    """Return a module that maps images (B, C, size, size) to one random view each.

    Images are uint8, or floats in [0, 1] *before* normalisation; views are float32 in [0, 1] of
    the same shape. With one channel, only brightness and contrast are jittered; saturation, hue
    and grey do not apply.
    """
    policy = POLICIES[options.policy]
    flip_p = policy.flip_p if options.flip_p is None else options.flip_p
    crop: Step
    if policy.min_scale is None:
        crop = partial(random_padded_crop, padding=4, flip_p=flip_p)
    else:
        min_scale = options.min_scale or policy.min_scale
        crop = partial(random_resized_crop, min_scale=min_scale, flip_p=flip_p, cubic=policy.cubic)
    colour = _colour_steps(options, policy, image.channels)
    steps: list[Step] = [*colour, crop] if policy.colour_first else [crop, *colour]
    if policy.blur:
        steps.append(partial(random_blur, kernel_size=2 * int(0.05 * image.size) + 1))
    if policy.operations:
        draws = OPERATIONS[policy.operations](image.size)
        steps.append(partial(random_operations, draws=draws))
    return Augmentation(steps, shape=(image.channels, image.size, image.size))


def _colour_steps(options: AugmentationOptions, policy: Policy, channels: int) -> list[Step]:
    if policy.jitter is None:
        return []
    factor = 1.0 if options.jitter is None else options.jitter
    brightness, contrast, saturation, hue = (factor * strength for strength in policy.jitter)
    strengths = (brightness, contrast, saturation, hue)
    steps: list[Step] = [partial(random_jitter, strengths=strengths, p=0.8)]
    if channels == 3:
        grey_p = policy.grey_p if options.grey_p is None else options.grey_p
        steps.append(partial(random_grey, p=grey_p))
    return steps


class Augmentation(nn.Module):
    """The steps of a policy in order, in float32 and without gradients, even inside autocast."""

    def __init__(self, steps: list[Step], shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.steps = steps
        self.shape = shape

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Return one view of each image: (B, C, size, size), float32 in [0, 1]."""
        if images.shape[1:] != self.shape:
            raise ValueError(
                f"Expected images of shape (B, {', '.join(map(str, self.shape))}); "
                f"found {tuple(images.shape)}."
            )
        views = images.float() / 255 if images.dtype == torch.uint8 else images.float()
        with torch.autocast(images.device.type, enabled=False):
            for step in self.steps:
                views = step(views)
        return views.clamp(0, 1)
