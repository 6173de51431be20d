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

A view follows from the numbers in [0, 1) that its draws are made of, on every device. Training
derives them from seed, epoch, sample and view alone (`pipeline/loading/batch_pixels.py`); otherwise
they come from torch's global generator.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from pipeline.base.devices import sent
from pipeline.base.errors import ArgumentError
from pipeline.base.options import Options
from pipeline.base.seeds import Numbers
from pipeline.images.drawn_operations import (
    AutoAugmentDraws,
    Draws,
    RandAugmentDraws,
    random_operations,
)
from pipeline.images.image_batch import unit_images
from pipeline.images.original_view import ImageOptions
from pipeline.images.view_operations import (
    BOX_NUMBERS,
    crop_and_resize,
    drawn_boxes,
    drawn_shifts,
    padded_crop,
    random_blur,
    random_grey,
    random_jitter,
)
from pipeline.images.view_options import GLOBAL, ViewForm

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


PADDING = 4


class DrawnView(NamedTuple):
    """One random view of each image of a batch: the numbers (B, n) that its draws are made of.

    `crops` (B, C, size, size), uint8, are its boxes of the image files, where these are larger than
    the original view. Without them, views are cut from the original view. `targets` (B, width), by
    feature, are those of the crops, where these are stored views.
    """

    numbers: Numbers
    crops: Tensor | None = None
    targets: dict[str, Tensor] | None = None


@dataclass(frozen=True)
class Step:
    """An operation on images (B, C, S, S) in [0, 1] that makes its draws of (B, count) numbers."""

    count: int
    apply: Callable[[Tensor, Numbers], Tensor]


@dataclass(frozen=True)
class PaddedCrop:
    """A crop of the original view, padded with black."""

    padding: int = PADDING
    count = 2

    def __call__(self, images: Tensor, numbers: Numbers) -> Tensor:
        """Return a crop of each image, of the same shape."""
        return padded_crop(images, drawn_shifts(numbers, self.padding), self.padding)


@dataclass(frozen=True)
class ResizedCrop:
    """A box of the image, of a share of its area in `scale`, resized to `size` pixels a side."""

    scale: tuple[float, float]
    cubic: bool
    size: int
    count = BOX_NUMBERS

    def boxes(self, numbers: Numbers, height: int, width: int) -> "npt.NDArray[np.int64]":
        """Return boxes (B, 4) of top, left, height, width in an image of that size."""
        low, high = self.scale
        return drawn_boxes(numbers, low, max_scale=high, height=height, width=width)

    def __call__(self, images: Tensor, numbers: Numbers) -> Tensor:
        """Return a crop of each image, resized."""
        side = images.shape[-1]
        boxes = torch.from_numpy(self.boxes(numbers, side, side))
        return crop_and_resize(images, boxes, size=self.size, cubic=self.cubic)


def build_augmentation(
    options: AugmentationOptions, image: ImageOptions, form: ViewForm = GLOBAL
) -> "Augmentation":
    """Return a module that maps images (B, C, size, size) to one random view each.

    Images are uint8, or floats in [0, 1] *before* normalisation; views are float32 in [0, 1], of
    the same shape unless `form` has another size. A form with a scale is a resized crop under any
    policy. With one channel, only brightness and contrast are jittered; saturation, hue and grey do
    not apply.
    """
    policy, size = POLICIES[options.policy], form.size or image.size
    scale = form.scale
    if scale is None and policy.min_scale is not None:
        scale = (options.min_scale or policy.min_scale, 1.0)
    crop = PaddedCrop() if scale is None else ResizedCrop(scale, policy.cubic, size)
    steps = _colour_steps(options, policy, image.channels)
    if policy.blur:
        kernel_size = 2 * int(0.05 * size) + 1
        steps.append(Step(1, partial(random_blur, kernel_size=kernel_size)))
    if policy.operations:
        draws = OPERATIONS[policy.operations](size)
        steps.append(Step(draws.count, partial(random_operations, draws=draws)))
    return Augmentation(
        crop,
        steps,
        flip_p=policy.flip_p if options.flip_p is None else options.flip_p,
        colour_first=policy.colour_first,
        shape=(image.channels, image.size, image.size),
        size=size,
    )


def _colour_steps(options: AugmentationOptions, policy: Policy, channels: int) -> list[Step]:
    if policy.jitter is None:
        return []
    factor = 1.0 if options.jitter is None else options.jitter
    brightness, contrast, saturation, hue = (factor * strength for strength in policy.jitter)
    strengths = (brightness, contrast, saturation, hue)
    steps = [Step(9, partial(random_jitter, strengths=strengths, p=0.8))]
    if channels == 3:
        grey_p = policy.grey_p if options.grey_p is None else options.grey_p
        steps.append(Step(1, partial(random_grey, p=grey_p)))
    return steps


class Augmentation(nn.Module):
    """A policy, in float32 and without gradients, even inside autocast.

    It is a crop, a flip with probability `flip_p`, and steps, which with `colour_first` come before
    the crop. It maps images of `shape` to views of `size` pixels a side. A view takes `numbers`
    numbers.
    """

    def __init__(
        self,
        crop: PaddedCrop | ResizedCrop,
        steps: list[Step],
        *,
        flip_p: float,
        colour_first: bool,
        shape: tuple[int, int, int],
        size: int,
    ) -> None:
        super().__init__()
        self.crop, self.steps = crop, steps
        self.flip_p, self.colour_first = flip_p, colour_first
        self.shape, self.size = shape, size
        self.numbers = crop.count + 1 + sum(step.count for step in steps)

    @property
    def box(self) -> ResizedCrop | None:
        """The box that a view can be cut from a file by, before all other steps; None without."""
        return self.crop if isinstance(self.crop, ResizedCrop) and not self.colour_first else None

    @property
    def cubic(self) -> bool:
        """Whether boxes are resized bicubically, and not bilinearly."""
        return isinstance(self.crop, ResizedCrop) and self.crop.cubic

    def boxes(self, numbers: Numbers, height: int, width: int) -> "npt.NDArray[np.int64]":
        """Return the box (B, 4) of each view in an image of that size, of (B, numbers) numbers."""
        if self.box is None:
            raise ValueError("views of this policy are not cut from files")
        return self.box.boxes(numbers[:, : self.box.count], height, width)

    def __call__(self, images: Tensor, drawn: DrawnView | None = None) -> Tensor:
        """Return `forward` of the same arguments."""
        view: Tensor = super().__call__(images, drawn)
        return view

    @torch.no_grad()
    def forward(self, images: Tensor, drawn: DrawnView | None = None) -> Tensor:
        """Return one view of each image: (B, C, size, size), float32 in [0, 1].

        Without draws, they are made by torch's global CPU generator. Raises ArgumentError for
        images of another form.
        """
        crops = drawn.crops if drawn else None
        pixels = images if crops is None else crops
        self._require_shape(pixels, cropped=crops is not None)
        return self.views(unit_images(pixels, self.shape[0]), drawn)

    @torch.no_grad()
    def views(self, images: Tensor, drawn: DrawnView | None = None) -> Tensor:
        """Return one view of each of images, or of their crops, of floats that lie in [0, 1].

        Unlike the module itself it does not look at the values, for which a host would wait.
        """
        if drawn is None:
            numbers = torch.rand(len(images), self.numbers, dtype=torch.float64).numpy()
            drawn = DrawnView(numbers)
        crops, views = drawn.crops, images.float()
        self._require_shape(images, cropped=crops is not None)
        counts = [self.crop.count, 1, *(step.count for step in self.steps)]
        crop, flip, *colour = np.split(drawn.numbers, np.cumsum(counts)[:-1], axis=1)
        with torch.autocast(views.device.type, enabled=False):
            if self.colour_first:
                views = self._coloured(views, colour)
            if crops is None:
                views = self.crop(views, crop)
            flips = sent(torch.from_numpy(flip[:, 0] < self.flip_p), views.device)
            views = torch.where(flips[:, None, None, None], views.flip(3), views)
            if not self.colour_first:
                views = self._coloured(views, colour)
        return views.clamp(0, 1)

    def _require_shape(self, images: Tensor, *, cropped: bool) -> None:
        shape = (self.shape[0], self.size, self.size) if cropped else self.shape
        if images.shape[1:] != shape:
            raise ArgumentError(
                f"Expected images of shape (B, {', '.join(map(str, shape))}); "
                f"found {tuple(images.shape)}."
            )

    def _coloured(self, views: Tensor, numbers: list[Numbers]) -> Tensor:
        for step, own in zip(self.steps, numbers, strict=True):
            views = step.apply(views, own)
        return views
