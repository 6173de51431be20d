"""The original view of every kind of image file, against plain arithmetic."""

import io
import struct
import time
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.base.errors import DataError
from pipeline.images.decoding import MAX_PIXELS, decode
from pipeline.images.original_view import ImageOptions, denormalise, normalise, original_view
from pipeline.images.preparation import OriginalView

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (6, 9, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def options(size: int, resize: int | None = None, channels: int = 3) -> ImageOptions:
    return ImageOptions.model_validate(
        {
            "size": size,
            "resize": resize,
            "channels": channels,
            "mean": (0.5, 0.4, 0.3)[:channels],
            "std": (0.2, 0.25, 0.5)[:channels],
        }
    )


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("PPM", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("JPEG2000", {}),
    ],
)
def test_lossless_files_give_their_pixels(kind: str, how: dict[str, Any]) -> None:
    image = decode(encoded(Image.fromarray(PIXELS), kind, **how))
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), PIXELS)


def test_grey_files_stay_grey() -> None:
    for kind in ("PNG", "JPEG"):
        image = decode(encoded(Image.fromarray(PIXELS[..., 0]), kind))
        assert image.mode == "L"
    np.testing.assert_array_equal(
        np.asarray(decode(encoded(Image.fromarray(PIXELS[..., 0])))), PIXELS[..., 0]
    )


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF"])
def test_a_truncated_file_is_refused_wherever_it_ends(kind: str) -> None:
    noise = RANDOM.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    for share in (0.02, 0.3, 0.6, 0.9):
        with pytest.raises(DataError, match="Not a readable image"):
            decode(data[: int(len(data) * share)])


@pytest.mark.parametrize(
    "data",
    [b"", b"\0" * 300, b"hello, this is no image", b"<svg xmlns='http://www.w3.org/2000/svg'/>"],
)
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(DataError, match="Not a readable image"):
        decode(data)


def test_formats_that_run_other_programs_are_refused() -> None:
    postscript = encoded(Image.fromarray(PIXELS), "EPS")
    with pytest.raises(DataError):
        decode(postscript)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_damage_is_either_refused_or_gives_a_plain_image(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "WEBP"]))
    file = bytearray(encoded(Image.fromarray(PIXELS), kind))
    for _ in range(data.draw(st.integers(1, 6))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert decode(bytes(file)).mode in ("L", "RGB")
    except DataError as error:
        assert str(error)  # noqa: PT017 (either outcome is right)


def test_a_cmyk_jpeg_becomes_rgb() -> None:
    red = Image.new("RGB", (16, 16), (200, 30, 20)).convert("CMYK")
    image = decode(encoded(red, "JPEG", quality=95))
    assert image.mode == "RGB"
    np.testing.assert_allclose(np.asarray(image)[8, 8], (200, 30, 20), atol=6)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_greys_are_scaled_not_clipped(kind: str) -> None:
    values = np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16)
    image = decode(encoded(Image.fromarray(values), kind))
    assert image.mode == "L"
    np.testing.assert_array_equal(np.asarray(image), [[0, 1, 128, 255]])


def test_floating_point_images_are_refused() -> None:
    data = encoded(Image.fromarray(np.array([[0.1, 0.9]], dtype=np.float32)), "TIFF")
    with pytest.raises(DataError, match="8 bits"):
        decode(data)


def test_one_bit_images_become_black_and_white() -> None:
    image = decode(encoded(Image.fromarray(np.array([[True, False]]))))
    assert image.mode == "L"
    np.testing.assert_array_equal(np.asarray(image), [[255, 0]])


def test_palettes_give_their_colours() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 128, 0])
    image.putpixel((1, 0), 1)
    for kind in ("PNG", "GIF"):
        found = decode(encoded(image, kind))
        assert found.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(found), [[[255, 0, 0], [0, 128, 0]]])


def test_transparency_is_laid_over_white() -> None:
    colours = np.array([[[200, 100, 0, 0], [200, 100, 0, 255], [200, 100, 0, 128]]], np.uint8)
    found = np.asarray(decode(encoded(Image.fromarray(colours, "RGBA")))).astype(int)
    over_white = colours[..., :3] * (colours[..., 3:] / 255) + 255 - colours[..., 3:]
    np.testing.assert_allclose(found, over_white, atol=1)

    grey = Image.fromarray(np.array([[[40, 0], [40, 255]]], np.uint8), "LA")
    np.testing.assert_array_equal(np.asarray(decode(encoded(grey)))[..., 0], [[255, 40]])

    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 128, 0])
    palette.putpixel((1, 0), 1)
    see_through = decode(encoded(palette, "PNG", transparency=0))
    np.testing.assert_array_equal(np.asarray(see_through), [[[255, 255, 255], [0, 128, 0]]])

    keyed = decode(
        encoded(Image.fromarray(PIXELS), "PNG", transparency=tuple(PIXELS[0, 0].tolist()))
    )
    np.testing.assert_array_equal(np.asarray(keyed)[0, 0], [255, 255, 255])
    np.testing.assert_array_equal(np.asarray(keyed)[1:], PIXELS[1:])


UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: a.transpose(1, 0, 2)[::-1],
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_exif_rotation_is_applied(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(PIXELS)
    expected = UPRIGHT[orientation](np.asarray(decode(encoded(image, kind))))
    np.testing.assert_array_equal(np.asarray(decode(encoded(image, kind, exif=exif))), expected)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x09"]
)
def test_damaged_exif_does_not_cost_the_image(exif: bytes) -> None:
    assert decode(encoded(Image.fromarray(PIXELS), "JPEG", exif=exif)).size == (9, 6)


def png_header(width: int, height: int) -> bytes:
    """Return a PNG that claims a size but holds almost no data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    rows = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + header + rows + chunk(b"IEND", b"")


def test_a_decompression_bomb_is_refused_at_once_and_without_warning() -> None:
    start = time.perf_counter()
    for side in (13_500, 60_000):  # just above the limit, and above Pillow's own
        assert side * side > MAX_PIXELS
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(DataError, match="pixels"):
                decode(png_header(side, side))
    assert time.perf_counter() - start < 2


def test_a_one_pixel_image_becomes_an_even_view() -> None:
    image = decode(encoded(Image.new("RGB", (1, 1), (10, 20, 30))))
    view = original_view(image, options(8))
    for channel, value in zip(view, (10, 20, 30), strict=True):
        assert torch.equal(channel, torch.full((8, 8), value, dtype=torch.uint8))


def test_a_very_long_image_does_not_need_the_memory_of_its_enlargement() -> None:
    strip = Image.new("L", (1_000_000, 1), 7)
    view = original_view(strip, options(64, channels=1))  # enlarged whole: 4 GB
    assert view.shape == (1, 64, 64)
    assert torch.equal(view, torch.full((1, 64, 64), 7, dtype=torch.uint8))


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_of_the_right_size_is_taken_as_it_is(channels: int) -> None:
    pixels = RANDOM.integers(0, 256, (12, 12, 3), dtype=np.uint8)
    image = Image.fromarray(pixels if channels == 3 else pixels[..., 0])
    view = original_view(image, options(12, channels=channels))
    expected = torch.from_numpy(np.array(image).reshape(12, 12, channels)).permute(2, 0, 1)
    assert view.dtype == torch.uint8
    assert view.is_contiguous()
    assert torch.equal(view, expected)


@pytest.mark.parametrize(("width", "height"), [(50, 40), (40, 50), (64, 64), (33, 90), (24, 24)])
@pytest.mark.parametrize(("size", "resize"), [(24, None), (24, 32), (48, 48)])
def test_other_sizes_are_resized_by_the_shorter_side_and_cropped(
    width: int, height: int, size: int, resize: int | None
) -> None:
    # Of low contrast, so that a bicubic kernel does not leave [0, 255].
    pixels = RANDOM.integers(90, 160, (height, width, 3), dtype=np.uint8)
    view = original_view(Image.fromarray(pixels), options(size, resize))
    shorter = resize or size
    scale = shorter / min(width, height)
    whole = (max(shorter, round(height * scale)), max(shorter, round(width * scale)))
    batch = torch.from_numpy(pixels).permute(2, 0, 1)[None].double()
    resized = F.interpolate(batch, whole, mode="bicubic", antialias=True)[0]
    top, left = (whole[0] - size) // 2, (whole[1] - size) // 2
    expected = resized[:, top : top + size, left : left + size]
    assert view.shape == (3, size, size)
    assert (view - expected).abs().max() <= 1.1  # two roundings to 8 bits, one a side


def test_colour_and_grey_convert_into_each_other() -> None:
    grey = Image.fromarray(RANDOM.integers(0, 256, (8, 8), dtype=np.uint8))
    view = original_view(grey, options(8))
    assert torch.equal(view[0], view[1])
    assert torch.equal(view[0], view[2])
    assert torch.equal(view[:1], original_view(grey, options(8, channels=1)))
    colour = Image.new("RGB", (8, 8), (255, 0, 0))
    luma = original_view(colour, options(8, channels=1))
    assert torch.equal(luma, torch.full((1, 8, 8), 76, dtype=torch.uint8))  # .299 * 255


def test_normalise_is_undone_and_reads_bytes_and_floats_alike() -> None:
    image = options(5)
    bytes_ = torch.randint(0, 256, (2, 3, 5, 5), dtype=torch.uint8)
    floats = bytes_.float() / 255
    torch.testing.assert_close(normalise(bytes_, image), normalise(floats, image))
    torch.testing.assert_close(denormalise(normalise(floats, image), image), floats)
    channel = (floats[:, 2] - 0.3) / 0.5
    torch.testing.assert_close(normalise(floats, image)[:, 2], channel)
    view = OriginalView(image)
    picture = Image.fromarray(PIXELS)
    torch.testing.assert_close(view(picture), normalise(original_view(picture, image), image))
    assert view == OriginalView(options(5))
    assert hash(view) == hash(OriginalView(options(5)))
    assert view != OriginalView(options(6))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mean": [0.5]}, "one number per channel"),
        ({"std": [0.5, 0.5, 0.0]}, "greater than 0"),
        ({"std": [0.5, 0.5, float("nan")]}, "finite|greater"),
        ({"resize": 16}, "must not be smaller than size"),
        ({"size": 2}, "greater than or equal to 4"),
    ],
)
def test_impossible_options_are_refused(wrong: dict[str, Any], message: str) -> None:
    right = {"size": 32, "mean": [0.5] * 3, "std": [0.25] * 3}
    assert ImageOptions.model_validate(right).channels == 3
    with pytest.raises(ValueError, match=message):
        ImageOptions.model_validate(right | wrong)


def test_images_of_another_form_are_not_normalised() -> None:
    options = ImageOptions(size=8, mean=(0.5,) * 3, std=(0.5,) * 3)
    for shape in ((2, 1, 8, 8), (8, 8), (8, 8, 3)):
        with pytest.raises(ValueError, match="one channel per mean"):
            normalise(torch.zeros(shape), options)
    with pytest.raises(ValueError, match="uint8, or floats"):
        normalise(torch.zeros(2, 3, 8, 8, dtype=torch.int64), options)
