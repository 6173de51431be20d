"""The operations of random views: torchvision's, but with a draw for each sample of a batch.

Each takes numbers (B, n) in [0, 1), uniform and independent, and makes its draws of them.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.base.devices import sent
from pipeline.base.seeds import Numbers

RATIO = (3 / 4, 4 / 3)
SIGMA = (0.1, 2.0)
# torchvision's weights of red, green and blue; they sum to 0.9999.
LUMA = (0.2989, 0.587, 0.114)
ATTEMPTS = 10  # of drawing a box that fits
BOX_NUMBERS = 2 * ATTEMPTS + 2  # of which a box is drawn


def drawn_boxes(
    numbers: Numbers, min_scale: float, *, height: int, width: int, max_scale: float = 1.0
) -> "np.ndarray[tuple[int, int], np.dtype[np.int64]]":
    """Make boxes (B, 4) of top, left, height, width inside an image, of numbers (B, 22).

    The area, as a share of the image's, is uniform in [min_scale, max_scale]; the aspect ratio is
    log-uniform in `RATIO`. The first of ten draws that fits is used, else the largest box in the
    centre that has an allowed ratio. This is the distribution of torchvision's RandomResizedCrop.
    """
    low, high = np.log(RATIO)
    area = height * width * (min_scale + (max_scale - min_scale) * numbers[:, :ATTEMPTS])
    ratio = np.exp(low + (high - low) * numbers[:, ATTEMPTS : 2 * ATTEMPTS])
    sides = np.rint(np.stack([np.sqrt(area / ratio), np.sqrt(area * ratio)], axis=-1))
    fits = ((sides >= 1) & (sides <= (height, width))).all(axis=-1)
    chosen = np.take_along_axis(sides, fits.argmax(axis=1)[:, None, None], axis=1)[:, 0]
    corners = np.floor(numbers[:, 2 * ATTEMPTS :] * ((height, width) - chosen + 1))
    boxes = np.concatenate([corners, chosen], axis=1)
    boxes[~fits.any(axis=1)] = _central_box(height, width)
    return boxes.astype(np.int64)


def _central_box(height: int, width: int) -> tuple[int, int, int, int]:
    rows = min(height, max(1, round(width / RATIO[0])))
    columns = min(width, max(1, round(height * RATIO[1])))
    return (height - rows) // 2, (width - columns) // 2, rows, columns


def crop_and_resize(
    images: Tensor, boxes: Tensor, *, size: int | None = None, cubic: bool = False
) -> Tensor:
    """Resize a box (B, 4) of each image (B, C, S, S) to (B, C, size, size), by default size S.

    The result equals cropping and resizing in torchvision and Pillow, antialiased where a crop
    shrinks. The map is linear along each side, so crop and resize are one weight matrix per side.
    With matrix products in TF32, 3 digits are correct.
    """
    top, left, height, width = sent(boxes, images.device).unbind(1)
    S = images.shape[-1]
    rows = _resize_weights(top, height, S, size or S, cubic=cubic)
    columns = _resize_weights(left, width, S, size or S, cubic=cubic)
    resized = rows[:, None] @ images @ columns.mT[:, None]
    return resized.clamp(0, 1)  # a bicubic kernel overshoots


def _resize_weights(start: Tensor, length: Tensor, size: int, out: int, *, cubic: bool) -> Tensor:
    """Return (B, out, size): the weight of each source pixel in each pixel of the resized crop."""
    pixels, resized = (torch.arange(n, device=start.device) for n in (size, out))
    step = length / out  # source pixels per resized one
    centres = (resized + 0.5) * step[:, None] - 0.5  # (B, out), within the crop
    source = pixels - start[:, None]  # (B, size), within the crop
    distance = (centres[:, :, None] - source[:, None, :]).abs()
    distance = distance / step.clamp(min=1)[:, None, None]  # a wider kernel where a crop shrinks
    weights = _cubic(distance) if cubic else (1 - distance).clamp(min=0)
    inside = (source >= 0) & (source < length[:, None])
    weights = weights * inside[:, None, :]
    return weights / weights.sum(dim=-1, keepdim=True)


def _cubic(distance: Tensor) -> Tensor:
    """Keys' cubic convolution kernel with a = -1/2, as in Pillow."""
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))


def drawn_shifts(numbers: Numbers, padding: int) -> Tensor:
    """Make corners (B, 2) of numbers (B, 2), each equally probable in a padded image."""
    return torch.from_numpy(np.floor(numbers * (2 * padding + 1)).astype(np.int64))


def padded_crop(images: Tensor, corners: Tensor, padding: int) -> Tensor:
    """Crop zero-padded images to (B, C, S, S) at `corners` (B, 2: top, left)."""
    S = images.shape[-1]
    padded = F.pad(images, [padding] * 4)
    windows = padded.unfold(2, S, 1).unfold(3, S, 1)  # (B, C, top, left, S, S), a view
    top, left = sent(corners, images.device).unbind(1)
    return windows[torch.arange(len(images), device=images.device), :, top, left]


def random_jitter(
    images: Tensor, numbers: Numbers, *, strengths: tuple[float, float, float, float], p: float
) -> Tensor:
    """With probability `p`, change brightness, contrast, saturation and hue, in random order.

    Factors are uniform in [1 - strength, 1 + strength] (not below 0); the hue shift is uniform in
    [-strength, strength] of the colour circle. Each step clamps to [0, 1], as in torchvision. Takes
    9 numbers for each image.
    """
    drawn = torch.from_numpy(numbers)
    reach = torch.tensor(strengths)
    centres = torch.tensor([1.0, 1.0, 1.0, 0.0])
    low, high = centres - reach, centres + reach
    low[:3].clamp_(min=0)
    factors = low + (high - low) * drawn[:, :4].float()
    order = drawn[:, 4:8].argsort(dim=1)
    order[drawn[:, 8] >= p] = -1
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


def random_grey(images: Tensor, numbers: Numbers, *, p: float) -> Tensor:
    """With probability `p`, replace the three channels by their luma. Takes 1 number an image."""
    chosen = sent(torch.from_numpy(numbers[:, 0] < p), images.device)
    return torch.where(chosen[:, None, None, None], _grey(images), images)


def random_blur(images: Tensor, numbers: Numbers, *, kernel_size: int) -> Tensor:
    """Blur with a Gaussian of deviation uniform in `SIGMA` pixels; kernel size 1 does nothing.

    Takes 1 number for each image.
    """
    sigmas = SIGMA[0] + (SIGMA[1] - SIGMA[0]) * torch.from_numpy(numbers[:, 0]).float()
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
