"""Decoding image files to pixels: the one decoder that everything here uses."""

import io
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.base.errors import DataError

MAX_PIXELS = 178_956_970  # Pillow's own limit against decompression bombs
# Pillow reads other formats too, but runs other programs for some (EPS); some hold no pixels.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")


def decode(data: bytes) -> Image.Image:
    """Decode the first image of a file in `FORMATS` to mode L or RGB, upright, without alpha.

    EXIF rotation is applied, transparency is composited over white, and palettes, CMYK and
    16-bit greys are converted. Raises DataError if the bytes are not a complete image, if it has
    more than `MAX_PIXELS` pixels, or if its pixels are floating-point numbers.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            if image.width * image.height > MAX_PIXELS:
                raise DataError(
                    f"An image of {image.width} x {image.height} pixels exceeds the limit of "
                    f"{MAX_PIXELS} pixels; scale it down first."
                )
            image.load()
            return upright(image)
    except DataError:
        raise
    except UnidentifiedImageError as error:
        kinds = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise DataError(f"Not a readable image: its bytes are not a {kinds} file.") from error
    except Exception as error:  # damaged files raise errors of a dozen kinds
        raise DataError(f"Not a readable image: {error}.") from error


def upright(image: Image.Image) -> Image.Image:
    """Convert an open image to upright L or RGB, as `decode` does. Raises DataError likewise."""
    return _plain(ImageOps.exif_transpose(image))


def _plain(image: Image.Image) -> Image.Image:
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    if image.mode == "F":
        # Some range to 1, some to 255; scaling each image by its own range would distort the data.
        raise DataError("Floating-point images have no agreed range; store them with 8 bits.")
    if image.mode in ("I;16", "I;16B", "I;16L", "I"):
        values = np.asarray(image, dtype=np.float64) / 257  # 16 bits to 8: 65535 -> 255
        return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("L" if image.mode == "1" else "RGB")
