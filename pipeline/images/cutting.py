"""Cutting views from an image file: each is a box of it, resized to the view's size in one step.

Boxes are in the coordinates of the upright image. A file is decoded once for all its views, at a
reduced scale where each of them needs less than a `MARGIN`-th of its pixels along each side.

Views differ from those of torchvision and Pillow by up to 0.2 grey levels (of 255) on average over
their pixels; at a reduced scale by 0.3, and by up to 2.4 where a photograph shows patterns that are
finer than the view's pixels. `tests/images/test_cutting.py` measures it.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pipeline.images.decoding import ImageFile, Orientation, Pixels
from pipeline.images.original_view import ImageOptions, centre_box

# A box is decoded with at least this many pixels for one of the view's along each side, so that
# antialiasing removes most of what reduced decoding changes.
MARGIN = 3
LONGEST = 3  # aspect ratio up to which the original view is a part of the whole image, resized
NEAR = 1e-6


class Box(NamedTuple):
    """A part of an image: pixels, with fractions, from its upper left corner."""

    top: float
    left: float
    height: float
    width: float


def original_view_of(image: ImageFile, options: ImageOptions) -> Tensor:
    """Return the original view (C, size, size), uint8: `original_view`'s, within one grey level."""
    return cut_views(image, options, original=True)[0]


def part_of_whole(image: ImageFile, options: ImageOptions, box: Box, *, cubic: bool) -> Tensor:
    """Return a part of the resized image as (C, size, size), uint8; the box may have fractions."""
    return _cut(image, options, [_Cut(box, options.size, cubic, within=True)])[0]


def cut_views(
    file: ImageFile,
    image: ImageOptions,
    boxes: "npt.NDArray[np.int64] | None" = None,
    *,
    sizes: Sequence[int] | None = None,
    original: bool = False,
    cubic: bool = False,
) -> list[Tensor]:
    """Return views (C, size, size), uint8: the original one if asked for, then one of each box.

    `boxes` (V, 4) are top, left, height and width, and `sizes` what they are resized to, by default
    the image's. They are resized bilinearly, or with `cubic`, bicubically. Raises DataError if the
    file cannot be decoded.
    """
    centre = Box(*centre_box(file.width, file.height, image))
    wanted = [_Cut(centre, image.size, cubic=True, within=True)] if original else []
    if boxes is not None:
        sized = zip(boxes.tolist(), sizes or [image.size] * len(boxes), strict=True)
        wanted += [_Cut(Box(*box), size, cubic, within=False) for box, size in sized]
    return _cut(file, image, wanted)


class _Cut(NamedTuple):
    """A box to be cut to `size`, by itself or, `within`, as a part of the resized image."""

    box: Box
    size: int
    cubic: bool
    within: bool


def _cut(file: ImageFile, image: ImageOptions, wanted: Sequence[_Cut]) -> list[Tensor]:
    share = max(
        (MARGIN * cut.size / min(cut.box.height, cut.box.width) for cut in wanted),
        default=1.0,
    )
    stored = file.stored(share)
    pixels, orientation = stored.pixels, stored.orientation
    if image.channels == 1 and pixels.shape[2] == 3:
        pixels = np.array(Image.fromarray(pixels).convert("L"))[:, :, None]
    views = []
    for cut in wanted:
        own = _scaled(_as_stored(cut.box, file, orientation), stored.scale)
        resize = _part_of_whole if cut.within else _resized_box
        resized = orientation.upright(resize(pixels, own, cut.size, cubic=cut.cubic))
        view = np.empty((image.channels, cut.size, cut.size), dtype=np.uint8)
        view[:] = resized.transpose(2, 0, 1)  # one channel fills three
        views.append(torch.from_numpy(view))
    return views


def _as_stored(box: Box, file: ImageFile, orientation: Orientation) -> Box:
    """Map a box of the upright image to one of the stored image."""
    top, left, height, width = box
    if orientation.mirrored:
        left = file.width - left - width
    if orientation.inverted:
        top = file.height - top - height
    if orientation.transposed:
        return Box(left, top, width, height)
    return Box(top, left, height, width)


def _scaled(box: Box, scale: float) -> Box:
    return Box(*(scale * value for value in box))


def _resized_box(pixels: Pixels, box: Box, size: int, *, cubic: bool) -> Pixels:
    """Resize a box, as if the image ended at the borders of the pixels that it touches."""
    top, left = math.floor(box.top + NEAR), math.floor(box.left + NEAR)
    bottom = math.ceil(box.top + box.height - NEAR)
    right = math.ceil(box.left + box.width - NEAR)
    part = pixels[top:bottom, left:right]
    inner = Box(box.top - top, box.left - left, box.height, box.width)
    if np.allclose((bottom - top, right - left), (box.height, box.width), rtol=0, atol=NEAR):
        return _interpolated(part, size, size, cubic=cubic)
    return _by_fractions(part, inner, size, cubic=cubic)


def _part_of_whole(pixels: Pixels, box: Box, size: int, *, cubic: bool) -> Pixels:
    """Resize a box as a part of the image, of which pixels around the box count at its borders."""
    height, width = (
        side * size / extent
        for side, extent in zip(pixels.shape, (box.height, box.width), strict=False)
    )
    top, left = box.top * size / box.height, box.left * size / box.width
    whole = [round(value) for value in (top, left, height, width)]
    near = np.allclose(whole, (top, left, height, width), rtol=0, atol=NEAR * size)
    if near and max(height, width) <= LONGEST * size:
        resized = _interpolated(pixels, whole[2], whole[3], cubic=cubic)
        return resized[whole[0] : whole[0] + size, whole[1] : whole[1] + size]
    return _by_fractions(pixels, box, size, cubic=cubic)


def _interpolated(pixels: Pixels, height: int, width: int, *, cubic: bool) -> Pixels:
    """Resize pixels (H, W, C), antialiased."""
    if pixels.shape[:2] == (height, width):
        return pixels
    channels_first = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    mode = "bicubic" if cubic else "bilinear"
    resized = F.interpolate(channels_first, (height, width), mode=mode, antialias=True)
    found: Pixels = resized[0].permute(1, 2, 0).numpy()
    return found


def _by_fractions(pixels: Pixels, box: Box, size: int, *, cubic: bool) -> Pixels:
    """Resize a box whose borders lie within pixels, antialiased; Pillow can, torch cannot."""
    grey = pixels.shape[2] == 1
    image = Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if grey else pixels))
    top, left, height, width = box
    borders = (
        max(0.0, left),
        max(0.0, top),
        min(float(image.width), left + width),
        min(float(image.height), top + height),
    )
    kernel = Image.Resampling.BICUBIC if cubic else Image.Resampling.BILINEAR
    resized = np.asarray(image.resize((size, size), kernel, box=borders))
    return resized[:, :, None] if grey else resized
