"""The operations of random views: torchvision's, but with a draw for each sample of a batch."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.base.devices import sent

RATIO = (3 / 4, 4 / 3)
SIGMA = (0.1, 2.0)
# torchvision's weights of red, green and blue; they sum to 0.9999.
LUMA = (0.2989, 0.587, 0.114)

Step = Callable[[Tensor], Tensor]


def random_resized_crop(
    images: Tensor, *, min_scale: float, flip_p: float, cubic: bool = False
) -> Tensor:
    """Crop a random box, resize it to the whole image, flip it with probability `flip_p`."""
    B, size = len(images), images.shape[-1]
    boxes = draw_boxes(B, size, min_scale)
    return crop_and_resize(images, boxes, torch.rand(B) < flip_p, cubic=cubic)


def draw_boxes(B: int, size: int, min_scale: float) -> Tensor:
    """Draw boxes (B, 4) of top, left, height, width inside a square image of side `size`.

    The area, as a share of the image's, is uniform in [min_scale, 1]; the aspect ratio is
    log-uniform in `RATIO`. The first of ten draws that fits is used, else the whole image.
    """
    low, high = (torch.tensor(ratio).log() for ratio in RATIO)
    area = size * size * (min_scale + (1 - min_scale) * torch.rand(B, 10))
    ratio = (low + (high - low) * torch.rand(B, 10)).exp()
    sides = torch.stack([(area / ratio).sqrt(), (area * ratio).sqrt()], dim=-1).round()
    fits = ((sides >= 1) & (sides <= size)).all(dim=-1)
    first = fits.int().argmax(dim=1)
    sides = torch.where(fits.any(dim=1)[:, None], sides[torch.arange(B), first], float(size))
    # A draw just below 1 may round up to the first position outside.
    corners = (torch.rand(B, 2) * (size - sides + 1)).floor().minimum(size - sides)
    return torch.cat([corners, sides], dim=1).long()


def crop_and_resize(images: Tensor, boxes: Tensor, flips: Tensor, *, cubic: bool = False) -> Tensor:
    """Resize a box of each image (B, C, S, S) to the whole image; mirror where `flips` (B,) holds.

    The result equals cropping and resizing in torchvision and Pillow (their antialiasing matters
    only if a crop shrinks, and ours never do). The map is linear along each side, so crop, resize
    and flip are one weight matrix per side. With matrix products in TF32, 3 digits are correct.
    """
    top, left, height, width = sent(boxes, images.device).unbind(1)
    S = images.shape[-1]
    rows = _resize_weights(top, height, S, cubic=cubic)
    columns = _resize_weights(left, width, S, cubic=cubic)
    columns = torch.where(sent(flips, images.device)[:, None, None], columns.flip(1), columns)
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
    """Shift up to `padding` pixels each way, fill with black, flip with probability `flip_p`."""
    B = len(images)
    corners = torch.randint(0, 2 * padding + 1, (B, 2))
    return padded_crop(images, corners, torch.rand(B) < flip_p, padding)


def padded_crop(images: Tensor, corners: Tensor, flips: Tensor, padding: int) -> Tensor:
    """Crop zero-padded images to (B, C, S, S) at `corners` (B, 2: top, left); mirror by `flips`."""
    S = images.shape[-1]
    padded = F.pad(images, [padding] * 4)
    windows = padded.unfold(2, S, 1).unfold(3, S, 1)  # (B, C, top, left, S, S), a view
    top, left = sent(corners, images.device).unbind(1)
    cut = windows[torch.arange(len(images), device=images.device), :, top, left]
    return torch.where(sent(flips, images.device)[:, None, None, None], cut.flip(3), cut)


def random_jitter(
    images: Tensor, *, strengths: tuple[float, float, float, float], p: float
) -> Tensor:
    """With probability `p`, change brightness, contrast, saturation and hue, in random order.

    Factors are uniform in [1 - strength, 1 + strength] (not below 0); the hue shift is uniform in
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
    """Adjust each image by its own steps, `order` (B, 4), with its own `factors` (B, 4).

    Steps are 0 brightness, 1 contrast, 2 saturation, 3 hue, -1 none; images with one channel
    skip 2 and 3.
    """
    steps = [_brightness, _contrast, _saturation, _hue]
    if images.shape[1] == 1:
        steps = steps[:2]
    turns = [(place, index) for place in range(order.shape[1]) for index in range(len(steps))]
    chosen = [(order[:, place] == index).nonzero()[:, 0] for place, index in turns]
    # What was drawn is sent at once: a GPU would be waited for at each transfer.
    sizes = [len(part) for part in chosen]
    rows = torch.split(sent(torch.cat(chosen), images.device), sizes)
    factors = sent(factors, images.device)
    adjusted = images.clone()
    for (_, index), part in zip(turns, rows, strict=True):
        if len(part):
            factor = factors[part, index][:, None, None, None]
            adjusted[part] = steps[index](adjusted[part], factor)
    return adjusted


def _brightness(images: Tensor, factor: Tensor) -> Tensor:
    return (images * factor).clamp_(0, 1)


def _contrast(images: Tensor, factor: Tensor) -> Tensor:
    mean = _grey(images).mean(dim=(2, 3), keepdim=True)
    return torch.lerp(mean, images, factor).clamp_(0, 1)


def _saturation(images: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(_grey(images), images, factor).clamp_(0, 1)


def _hue(images: Tensor, shift: Tensor) -> Tensor:
    """Rotate the hue of (B, 3, H, W) by `shift` of the circle; HSV saturation and value stay.

    Computes the hexagonal hue h and from it the channels (n = 5, 3, 1),
    v - c * clamp(min(k, 4 - k), 0, 1) with k = (n + 6 h) mod 6. This takes half the passes of a
    conversion to HSV and back.
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
    chosen = sent(torch.rand(len(images)) < p, images.device)
    return torch.where(chosen[:, None, None, None], _grey(images), images)


def random_blur(images: Tensor, *, kernel_size: int) -> Tensor:
    """Blur with a Gaussian of deviation uniform in `SIGMA` pixels; kernel size 1 does nothing."""
    sigmas = SIGMA[0] + (SIGMA[1] - SIGMA[0]) * torch.rand(len(images))
    return gaussian_blur(images, sigmas, kernel_size)


def gaussian_blur(images: Tensor, sigmas: Tensor, kernel_size: int) -> Tensor:
    """Blur each image (B, C, H, W) by its own deviation (B,) in pixels; edges are mirrored."""
    if kernel_size == 1:
        return images
    B, C, H, W = images.shape
    half = kernel_size // 2
    offsets = torch.arange(-half, half + 1, device=images.device)
    kernels = torch.exp(-0.5 * (offsets / sent(sigmas, images.device)[:, None]) ** 2)
    kernels = kernels / kernels.sum(dim=1, keepdim=True)
    # One group per channel of each sample.
    kernels = kernels.repeat_interleave(C, dim=0)[:, None]  # (B * C, 1, K)
    padded = F.pad(images, [half] * 4, mode="reflect").reshape(1, B * C, H + 2 * half, W + 2 * half)
    blurred = F.conv2d(padded, kernels[:, :, :, None], groups=B * C)
    return F.conv2d(blurred, kernels[:, :, None, :], groups=B * C).reshape(B, C, H, W)
