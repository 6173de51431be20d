"""Storing large images smaller: reduced once, to a JPEG file of a stated quality."""

import io
from typing import Annotated

import numpy as np
from PIL import Image
from pydantic import Field

from pipeline.base.options import Options
from pipeline.images.decoding import opened

Side = Annotated[int, Field(ge=32, le=65500)]  # the largest that JPEG files have


class ReductionOptions(Options):
    """How an image whose longer side exceeds `max_side` pixels is stored: as JPEG of `quality`."""

    max_side: Side
    quality: Annotated[int, Field(ge=1, le=100)]


def reduced(data: bytes, options: ReductionOptions | None) -> bytes | None:
    """Return the file of an image as it is stored, if that is not `data` itself.

    The image is upright, resized with antialiasing (Lanczos), grey if it was. Raises DataError if
    a larger image cannot be decoded.
    """
    if options is None:
        return None
    image = opened(data)
    longest = max(image.width, image.height)
    if longest <= options.max_side:
        return None
    stored = image.stored()
    pixels = np.ascontiguousarray(stored.orientation.upright(stored.pixels))
    whole = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    scale = options.max_side / longest
    size = [max(1, round(scale * side)) for side in whole.size]
    smaller = whole.resize((size[0], size[1]), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    smaller.save(file, "jpeg", quality=options.quality)
    return file.getvalue()
