"""Decoding image files to pixels: the one decoder that everything here uses.

JPEG files are decoded by libjpeg-turbo through simplejpeg, which also decodes at a reduced scale,
and all others by Pillow. At full scale, both give the same pixels to the bit.
"""

import hashlib
import io
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from pipeline.base.errors import ArgumentError, DataError

MAX_PIXELS = 178_956_970  # Pillow's own limit against decompression bombs
# Pillow reads other formats too, but runs other programs for some (EPS); some hold no pixels.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")
EIGHTHS = (1, 2, 3, 4)  # of the full scale, at which JPEG files are also decoded

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Orientation:
    """How stored pixels become upright: transposed first, then mirrored along either axis."""

    transposed: bool = False
    mirrored: bool = False  # left to right
    inverted: bool = False  # top to bottom

    def upright(self, pixels: Pixels) -> Pixels:
        """Return upright pixels (H, W, C), a view."""
        if self.transposed:
            pixels = pixels.swapaxes(0, 1)
        return pixels[:: -1 if self.inverted else 1, :: -1 if self.mirrored else 1]


# EXIF's numbers.
ORIENTATIONS = {
    1: Orientation(),
    2: Orientation(mirrored=True),
    3: Orientation(mirrored=True, inverted=True),
    4: Orientation(inverted=True),
    5: Orientation(transposed=True),
    6: Orientation(transposed=True, mirrored=True),
    7: Orientation(transposed=True, mirrored=True, inverted=True),
    8: Orientation(transposed=True, inverted=True),
}
UPRIGHT = ORIENTATIONS[1]


def decode(data: bytes) -> Image.Image:
    """Decode the first image of a file in `FORMATS` to mode L or RGB, upright, without alpha.

    EXIF rotation is applied, transparency is composited over white, and palettes, CMYK and
    16-bit greys are converted. Raises DataError if the bytes are not a complete image, if it has
    more than `MAX_PIXELS` pixels, or if its pixels are floating-point numbers.
    """
    header = _plain_jpeg(data)
    if header is not None:
        pixels = _jpeg_pixels(data, header, 8)
        if pixels is not None:
            shown = np.ascontiguousarray(header.orientation.upright(pixels))
            return Image.fromarray(shown[:, :, 0] if shown.shape[2] == 1 else shown)
    return _by_pillow(data)


def opened(image: bytes | Image.Image) -> "ImageFile":
    """Return an image file, or an image that Pillow has opened, as an `ImageFile`.

    Raises DataError as `decode` does, and ArgumentError for anything else. Damage in the pixels of
    a JPEG file is noticed when they are asked for.
    """
    if isinstance(image, Image.Image):
        shown = upright(image)
        return _Decoded(shown.tobytes(), shown)
    if not isinstance(image, bytes | bytearray | memoryview):
        raise ArgumentError(
            f"An image to prepare is a PIL image or the bytes of a file; found "
            f"{type(image).__name__}."
        )
    header = _plain_jpeg(image)
    return _Decoded(image, _by_pillow(image)) if header is None else _JpegFile(image, header)


class ImageFile(ABC):
    """An image whose `width` and `height`, upright, are known before its pixels are decoded."""

    width: int
    height: int

    def __init__(self, data: bytes) -> None:
        self._data = data

    @cached_property
    def content(self) -> bytes:
        """SHA-256 of the file, or of the pixels of an image that Pillow has opened."""
        return hashlib.sha256(self._data).digest()

    @abstractmethod
    def stored(self, share: float = 1.0) -> "Stored":
        """Return the pixels as the file stores them, at a scale of at least `share`."""

    @abstractmethod
    def decoded(self) -> Image.Image:
        """Return the whole image, as `decode` does; it is decoded once."""


@dataclass(frozen=True)
class Stored:
    """Pixels (H, W, 1 or 3) as a file stores them, which become upright by `orientation`.

    Their scale is an eighth, a quarter, three eighths, a half, or 1. At a smaller scale than 1, the
    last row and column may lie partly outside the image.
    """

    pixels: Pixels
    scale: float = 1.0
    orientation: Orientation = UPRIGHT


class _Decoded(ImageFile):
    def __init__(self, data: bytes, image: Image.Image) -> None:
        super().__init__(data)
        self._image = image
        self.width, self.height = image.size

    def stored(self, share: float = 1.0) -> Stored:
        return Stored(_array(self._image))

    def decoded(self) -> Image.Image:
        return self._image


class _JpegFile(ImageFile):
    def __init__(self, data: bytes, header: "_Jpeg") -> None:
        super().__init__(data)
        self._header = header
        self._whole: Image.Image | None = None
        sides = (header.height, header.width)
        self.height, self.width = sides[::-1] if header.orientation.transposed else sides

    def stored(self, share: float = 1.0) -> Stored:
        eighths = next((n for n in EIGHTHS if n / 8 >= share), 8)
        pixels = _jpeg_pixels(self._data, self._header, eighths)
        if pixels is None:  # damaged, or of a rare kind
            return Stored(_array(_by_pillow(self._data)))
        return Stored(pixels, eighths / 8, self._header.orientation)

    def decoded(self) -> Image.Image:
        if self._whole is None:
            self._whole = decode(self._data)
        return self._whole


@dataclass(frozen=True)
class _Jpeg:
    height: int
    width: int
    grey: bool
    orientation: Orientation


def _plain_jpeg(data: bytes) -> _Jpeg | None:
    """Read the header of a JPEG file in grey or YCbCr; return None for anything else."""
    if data[:3] != b"\xff\xd8\xff":
        return None
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        orientation = _orientation(data)
    except Exception:  # Pillow says what is wrong with it
        return None
    if space not in ("YCbCr", "Gray") or orientation is None:
        return None
    _refuse_too_large(width, height)
    return _Jpeg(height, width, space == "Gray", orientation)


def _orientation(data: bytes) -> Orientation | None:
    """Return the orientation of a JPEG file; None if it is not one of EXIF's."""
    if not _has_metadata(data):
        return UPRIGHT
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exif = Image.open(io.BytesIO(data), formats=("JPEG",)).getexif()
    return ORIENTATIONS.get(exif.get(ExifTags.Base.Orientation, 1))


def _has_metadata(data: bytes) -> bool:
    """Whether a JPEG file has a segment for EXIF or XMP, which may name an orientation."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # padding
            position += 1
            continue
        if marker == 0xE1:
            return True
        if marker in (0xD9, 0xDA):  # the end of the image, the start of its pixels
            return False
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return True  # whatever it is, Pillow knows better


def _jpeg_pixels(data: bytes, header: _Jpeg, eighths: int) -> Pixels | None:
    """Decode a JPEG file at a scale; return None if that is not possible without a warning."""
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(
            data,
            colorspace="GRAY" if header.grey else "RGB",
            min_height=-(-header.height * eighths // 8),
            min_width=-(-header.width * eighths // 8),
        )
    except ValueError:
        return None
    return pixels


def _by_pillow(data: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            _refuse_too_large(image.width, image.height)
            image.load()
            return upright(image)
    except DataError:
        raise
    except UnidentifiedImageError as error:
        kinds = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise DataError(f"Not a readable image: its bytes are not a {kinds} file.") from error
    except Exception as error:  # damaged files raise errors of a dozen kinds
        raise DataError(f"Not a readable image: {error}.") from error


def _refuse_too_large(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise DataError(
            f"An image of {width} x {height} pixels exceeds the limit of {MAX_PIXELS} pixels; "
            "scale it down first."
        )


def _array(image: Image.Image) -> Pixels:
    pixels = np.array(image)  # writable, as torch asks for
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def upright(image: Image.Image) -> Image.Image:
    """Convert an open image to upright L or RGB, as `decode` does. Raises DataError likewise."""
    return _plain(_turned(image))


def _turned(image: Image.Image) -> Image.Image:
    """Apply the rotation that EXIF asks for; if that cannot be read, there is none."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF raises errors of a dozen kinds, and the pixels are whole
        return image


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
