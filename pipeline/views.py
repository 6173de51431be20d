"""Random views: batched augmentation with a draw for every sample, on the CPU or on the device.

Policies (the released recipes; the order written is the order applied):

    custom       resized crop, flip, colour jitter (p .8), grey (p .2), Gaussian blur
    cifar20      colour jitter (p .8), grey (p .1), bicubic resized crop, flip
    cifar        crop with 4 pixels of padding, flip
    randaugment  resized crop, 4 operations of magnitude 10 (torchvision's RandAugment)
    autoaugment  resized crop, torchvision's AutoAugment with its ImageNet policy

Each operation computes what torchvision's does for one image, but with parameters drawn for
every sample of a batch. The arithmetic is here because neither library has it: torchvision draws
once a call; kornia chooses the order of the jitter, and the operations of its RandAugment, once
a batch, and its crop that equals torchvision's is a loop over samples (`benchmarks/views.py`
compares the speeds). The last two policies run torchvision sample by sample, on the CPU and in
8 bits.

Draws come from torch's global generator, on the CPU whatever the device, so that one seed gives
one sequence of views.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor, nn

from pipeline.config import Options
from pipeline.images import ImageOptions

RATIO = (3 / 4, 4 / 3)
SIGMA = (0.1, 2.0)
# torchvision's weights of red, green and blue; they sum to 0.9999.
LUMA = (0.2989, 0.587, 0.114)

Step = Callable[[Tensor], Tensor]
Probability = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class Policy:
    """What a policy does; the operations it lacks are None or 0."""

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
    the same shape. With one channel only brightness and contrast are jittered; saturation, hue
    and grey do not exist there.
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
        transform = _torchvision_policy(policy.operations)
        steps.append(partial(per_sample, transform=transform))
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


def _torchvision_policy(name: Literal["randaugment", "autoaugment"]) -> Any:
    from torchvision.transforms import v2

    return v2.RandAugment(num_ops=4, magnitude=10) if name == "randaugment" else v2.AutoAugment()


class Augmentation(nn.Module):
    """The steps of a policy in order, in float32 and without gradients, whatever surrounds them."""

    def __init__(self, steps: list[Step], shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.steps = steps
        self.shape = shape

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Return one view (B, C, size, size), float32 in [0, 1], of each image; see the module."""
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


def random_resized_crop(
    images: Tensor, *, min_scale: float, flip_p: float, cubic: bool = False
) -> Tensor:
    """Crop a random box, resize it to the whole image, flip it with probability `flip_p`."""
    B, size = len(images), images.shape[-1]
    boxes = draw_boxes(B, size, min_scale)
    return crop_and_resize(images, boxes, torch.rand(B) < flip_p, cubic=cubic)


def draw_boxes(B: int, size: int, min_scale: float) -> Tensor:
    """Draw boxes (B, 4) of top, left, height, width inside a square image of side `size`.

    The area is uniform in [min_scale, 1] of the image's and the ratio log-uniform in `RATIO`. Of
    ten draws the first that fits is taken; without one the box is the whole image.
    """
    low, high = (torch.tensor(ratio).log() for ratio in RATIO)
    area = size * size * (min_scale + (1 - min_scale) * torch.rand(B, 10))
    ratio = (low + (high - low) * torch.rand(B, 10)).exp()
    sides = torch.stack([(area / ratio).sqrt(), (area * ratio).sqrt()], dim=-1).round()
    fits = ((sides >= 1) & (sides <= size)).all(dim=-1)
    first = fits.int().argmax(dim=1)
    sides = torch.where(fits.any(dim=1)[:, None], sides[torch.arange(B), first], float(size))
    # A draw next to 1 may round up to the first position outside.
    corners = (torch.rand(B, 2) * (size - sides + 1)).floor().minimum(size - sides)
    return torch.cat([corners, sides], dim=1).long()


def crop_and_resize(images: Tensor, boxes: Tensor, flips: Tensor, *, cubic: bool = False) -> Tensor:
    """Resize the box of each image (B, C, S, S) to the whole image; mirror those of `flips` (B,).

    Equal to cropping and resizing as torchvision and Pillow do (antialias, which only matters
    when a crop shrinks and ours never does). Linear along each side, so crop, resize and flip
    are one weight matrix a side. A device that multiplies matrices in TF32 keeps 3 digits.
    """
    top, left, height, width = boxes.to(images.device).unbind(1)
    S = images.shape[-1]
    rows = _resize_weights(top, height, S, cubic=cubic)
    columns = _resize_weights(left, width, S, cubic=cubic)
    columns = torch.where(flips.to(images.device)[:, None, None], columns.flip(1), columns)
    resized = rows[:, None] @ images @ columns.mT[:, None]
    return resized.clamp(0, 1)  # a bicubic kernel overshoots


def _resize_weights(start: Tensor, length: Tensor, size: int, *, cubic: bool) -> Tensor:
    """Return (B, out, in): the weight of each source pixel in each pixel of the resized crop."""
    pixels = torch.arange(size, device=start.device)
    centres = (pixels + 0.5) * (length / size)[:, None] - 0.5  # (B, out), within the crop
    source = pixels - start[:, None]  # (B, in), within the crop
    distance = (centres[:, :, None] - source[:, None, :]).abs()
    weights = _cubic(distance) if cubic else (1 - distance).clamp(min=0)
    inside = (source >= 0) & (source < length[:, None])
    weights = weights * inside[:, None, :]
    return weights / weights.sum(dim=-1, keepdim=True)


def _cubic(distance: Tensor) -> Tensor:
    """Keys' cubic convolution kernel with a = -1/2, as in Pillow."""
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))


def random_padded_crop(images: Tensor, *, padding: int, flip_p: float) -> Tensor:
    """Shift by up to `padding` pixels each way over black, and flip with probability `flip_p`."""
    B = len(images)
    corners = torch.randint(0, 2 * padding + 1, (B, 2))
    return padded_crop(images, corners, torch.rand(B) < flip_p, padding)


def padded_crop(images: Tensor, corners: Tensor, flips: Tensor, padding: int) -> Tensor:
    """Cut (B, C, S, S) at `corners` (B, 2: top, left) of the images padded with zeros."""
    S = images.shape[-1]
    padded = F.pad(images, [padding] * 4)
    windows = padded.unfold(2, S, 1).unfold(3, S, 1)  # (B, C, top, left, S, S), a view
    top, left = corners.to(images.device).unbind(1)
    cut = windows[torch.arange(len(images), device=images.device), :, top, left]
    return torch.where(flips.to(images.device)[:, None, None, None], cut.flip(3), cut)


def random_jitter(
    images: Tensor, *, strengths: tuple[float, float, float, float], p: float
) -> Tensor:
    """With probability `p`, change brightness, contrast, saturation and hue, in random order.

    Factors are uniform in [1 - strength, 1 + strength] (not below 0), the hue's shift in
    [-strength, strength] of the colour circle. Each step clamps to [0, 1], as in torchvision.
    """
    B = len(images)
    reach = torch.tensor(strengths)
    centres = torch.tensor([1.0, 1.0, 1.0, 0.0])
    low, high = centres - reach, centres + reach
    low[:3].clamp_(min=0)
    factors = low + (high - low) * torch.rand(B, 4)
    order = torch.rand(B, 4).argsort(dim=1)
    order[torch.rand(B) >= p] = -1
    return adjust_colours(images, factors, order)


def adjust_colours(images: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Apply to each image its steps `order` (B, 4) with `factors` (B, 4).

    Steps are 0 brightness, 1 contrast, 2 saturation, 3 hue, -1 none; images of one channel
    skip 2 and 3.
    """
    steps = [_brightness, _contrast, _saturation, _hue]
    if images.shape[1] == 1:
        steps = steps[:2]
    adjusted = images.clone()
    for place in range(order.shape[1]):
        for index, step in enumerate(steps):
            chosen = (order[:, place] == index).nonzero()[:, 0]
            if len(chosen):
                factor = factors[chosen, index].to(images.device)[:, None, None, None]
                rows = chosen.to(images.device)
                adjusted[rows] = step(adjusted[rows], factor)
    return adjusted


def _brightness(images: Tensor, factor: Tensor) -> Tensor:
    return (images * factor).clamp_(0, 1)


def _contrast(images: Tensor, factor: Tensor) -> Tensor:
    mean = _grey(images).mean(dim=(2, 3), keepdim=True)
    return torch.lerp(mean, images, factor).clamp_(0, 1)


def _saturation(images: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(_grey(images), images, factor).clamp_(0, 1)


def _hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue (B, 3, H, W) by `shift` of the circle at constant HSV saturation and value.

    Goes through the hexagonal hue and straight back, n-th channel
    v - c * clamp(min(k, 4 - k), 0, 1) with k = (n + 6 h) mod 6: half the passes of a conversion
    to HSV and one back.
    """
    red, green, blue = images.unbind(1)
    value = images.amax(1)
    chroma = value - images.amin(1)
    safe = torch.where(chroma > 0, chroma, 1.0)
    low = torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4)
    sixths = torch.where(value == red, (green - blue) / safe, low) + 6 * shift[:, 0]
    turned = torch.empty_like(images)
    for channel, n in enumerate((5, 3, 1)):
        k = (sixths + n).remainder_(6)
        turned[:, channel] = value - chroma * torch.minimum(k, 4 - k).clamp_(0, 1)
    return turned


def _grey(images: Tensor) -> Tensor:
    """Return the luma (B, 1, H, W)."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(1)
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue)[:, None]


def random_grey(images: Tensor, *, p: float) -> Tensor:
    """With probability `p`, replace the three channels by their luma."""
    chosen = (torch.rand(len(images)) < p).to(images.device)
    return torch.where(chosen[:, None, None, None], _grey(images), images)


def random_blur(images: Tensor, *, kernel_size: int) -> Tensor:
    """Blur with a Gaussian whose deviation is uniform in `SIGMA` pixels; a kernel of 1 is none."""
    sigmas = SIGMA[0] + (SIGMA[1] - SIGMA[0]) * torch.rand(len(images))
    return gaussian_blur(images, sigmas, kernel_size)


def gaussian_blur(images: Tensor, sigmas: Tensor, kernel_size: int) -> Tensor:
    """Blur each image (B, C, H, W) by its own deviation (B,) in pixels; edges are mirrored."""
    if kernel_size == 1:
        return images
    B, C, H, W = images.shape
    half = kernel_size // 2
    offsets = torch.arange(-half, half + 1, device=images.device)
    kernels = torch.exp(-0.5 * (offsets / sigmas.to(images.device)[:, None]) ** 2)
    kernels = kernels / kernels.sum(dim=1, keepdim=True)
    # A group for every channel of every sample.
    kernels = kernels.repeat_interleave(C, dim=0)[:, None]  # (B * C, 1, K)
    padded = F.pad(images, [half] * 4, mode="reflect").reshape(1, B * C, H + 2 * half, W + 2 * half)
    blurred = F.conv2d(padded, kernels[:, :, :, None], groups=B * C)
    return F.conv2d(blurred, kernels[:, :, None, :], groups=B * C).reshape(B, C, H, W)


def per_sample(images: Tensor, *, transform: Any) -> Tensor:
    """Apply a torchvision transform of 8-bit Pillow images to each sample, on the CPU."""
    # (B, H, W, C), or (B, H, W) for one channel
    pixels = (images * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    views = np.stack([np.asarray(transform(Image.fromarray(image))) for image in pixels])
    views = views[..., None] if views.ndim == 3 else views
    return torch.from_numpy(views).to(images.device).permute(0, 3, 1, 2).float() / 255
