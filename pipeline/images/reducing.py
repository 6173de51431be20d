"""Storing large images smaller: reduced once, to a JPEG file of a stated quality."""

import io
from typing import Annotated

import numpy as np
from PIL import Image
from pydantic import Field

from pipeline.base.options import Options
from pipeline.images.decoding import opened

LARGEST = 65_500  # pixels that a side of a JPEG file has
PANORAMA = 4  # times as long as wide; what is longer keeps more of its length

Side = Annotated[int, Field(ge=32, le=LARGEST)]


class ReductionOptions(Options):
    """How an image whose longer side exceeds `max_side` pixels is stored: as JPEG of `quality`.

    The shorter side of a panorama, which is more than four times as long as wide, is not made
    smaller than a quarter of `max_side`.
    """

    max_side: Side
    quality: Annotated[int, Field(ge=1, le=100)]


def reduced(data: bytes, options: ReductionOptions | None) -> bytes | None:
    """Return the file of an image as it is stored, if that is not `data` itself.

    The image is upright, resized with antialiasing (Lanczos), grey if it was. A file that would not
    become smaller is stored as it is. Raises DataError if a larger image cannot be decoded.
    """
    if options is None:
        return None
    image = opened(data)
    scale = _scale(image.width, image.height, options.max_side)
    if scale >= 1:
        return None
    stored = image.stored()
    pixels = np.ascontiguousarray(stored.orientation.upright(stored.pixels))
    whole = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    size = [max(1, round(scale * side)) for side in whole.size]
    smaller = whole.resize((size[0], size[1]), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    smaller.save(file, "jpeg", quality=options.quality)
    found = file.getvalue()
    return found if len(found) < len(data) else None


def _scale(width: int, height: int, max_side: int) -> float:
    longer, shorter = max(width, height), min(width, height)
    wanted = max(max_side / longer, max_side / PANORAMA / shorter)
    return min(wanted, LARGEST / longer)
