"""Images within a page as data URIs: single images, and many images in one sprite."""

import base64
import io
import math
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pipeline.features.encoding import Array

PICTURE_SIDE = 96  # pixels, for a single image
TILE_SIDE = 40  # pixels, for a tile of a sprite
_LOSSLESS_SIDE = 16


@dataclass(frozen=True)
class Sprite:
    """N square tiles in one image: tile i is at column i % columns, row i // columns."""

    uri: str
    columns: int
    rows: int
    side: int


def picture(image: Tensor) -> str:
    """Return an image (C, S, S), uint8, as a data URI with at most `PICTURE_SIDE` pixels a side."""
    pixels = _pixels(_at_most(image[None], PICTURE_SIDE))[0]
    return _uri(pixels, lossless=len(pixels) <= _LOSSLESS_SIDE)


def grey_picture(values: Array) -> str:
    """Return a map (H, W) of floats as a data URI, black at 0 and white at its largest value."""
    largest = values.max()
    scaled = 255 * values.clip(min=0) / largest if largest > 0 else values
    return _uri(scaled.astype(np.uint8)[:, :, None], lossless=True)


def sprite(images: Tensor) -> Sprite:
    """Return images (N, C, S, S), uint8, as one sprite of tiles of at most `TILE_SIDE` pixels."""
    tiles = _pixels(_at_most(images, TILE_SIDE))  # (N, S, S, C)
    N, side, _, C = tiles.shape
    columns = math.ceil(math.sqrt(N))
    rows = -(-N // columns)
    sheet = np.zeros((rows * columns, side, side, C), dtype=np.uint8)
    sheet[:N] = tiles
    sheet = sheet.reshape(rows, columns, side, side, C).swapaxes(1, 2)
    sheet = sheet.reshape(rows * side, columns * side, C)
    return Sprite(_uri(sheet, lossless=side <= _LOSSLESS_SIDE), columns, rows, side)


def _at_most(images: Tensor, side: int) -> Tensor:
    if images.shape[-1] <= side:
        return images
    smaller = F.interpolate(images.float(), (side, side), mode="bilinear", antialias=True)
    return smaller.round().clamp(0, 255).to(images.dtype)


def _pixels(images: Tensor) -> Array:
    pixels: Array = images.permute(0, 2, 3, 1).contiguous().numpy()
    return pixels


def _uri(pixels: Array, *, lossless: bool) -> str:
    """Return pixels (H, W, C) as a data URI."""
    buffer = io.BytesIO()
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    if lossless:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.convert("RGB").save(buffer, "WEBP", quality=80)
    kind = "png" if lossless else "webp"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
