"""Views that are cut from files, against torchvision and Pillow on the whole decoded image."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from photographs import photographs
from PIL import Image, ImageOps
from torchvision.transforms.v2 import functional as tv

from pipeline.base.errors import DataError
from pipeline.images.cutting import MARGIN, cut_views, original_view_of
from pipeline.images.decoding import decode, opened
from pipeline.images.original_view import ImageOptions, original_view

RANDOM = np.random.default_rng(0)


def image_options(size: int, resize: int | None = None, channels: Any = 3) -> ImageOptions:
    mean = (0.5,) * channels
    return ImageOptions(size=size, resize=resize, channels=channels, mean=mean, std=mean)


def textured(height: int, width: int) -> Image.Image:
    """Return an image of waves of many lengths and directions, with noise."""
    y, x = np.mgrid[:height, :width]
    waves = [
        np.sin((x * np.cos(a) + y * np.sin(a)) / length + c)
        for length in (2, 5, 11, 40)
        for a, c in ((0.3, 0), (1.9, 1), (2.8, 2))
    ]
    pixels = np.stack([sum(waves[c::3]) for c in range(3)], axis=-1) * 22 + 128
    noisy = pixels + RANDOM.normal(0, 4, pixels.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def jpeg(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **{"quality": 92, **options})
    return file.getvalue()


def boxes_in(height: int, width: int, count: int) -> "npt.NDArray[np.int64]":
    """Return random boxes, of which the first touch every border."""
    sides = RANDOM.integers([1 + height // 8, 1 + width // 8], [height + 1, width + 1], (count, 2))
    corners = RANDOM.integers(0, [height, width] - sides + 1)
    corners[0], corners[1] = 0, [height, width] - sides[1]
    boxes = np.concatenate([corners, sides], axis=1)
    boxes[2] = (0, 0, height, width)
    return boxes


def differences(data: bytes, size: int, boxes: "npt.NDArray[np.int64]") -> Iterator[float]:
    """Yield the mean absolute difference, in grey levels, of each view to torchvision's."""
    views = cut_views(opened(data), image_options(size), boxes)
    whole = decode(data)
    for view, box in zip(views, boxes.tolist(), strict=True):
        theirs = tv.pil_to_tensor(tv.resized_crop(whole, *box, [size, size]))
        yield (view.int() - theirs.int()).abs().double().mean().item()


@pytest.mark.parametrize("size", [20, 64, 224])
@pytest.mark.parametrize("shape", [(240, 320), (333, 200), (61, 47)])
def test_a_box_is_torchvisions_crop(shape: tuple[int, int], size: int) -> None:
    found = [*differences(jpeg(textured(*shape)), size, boxes_in(*shape, 12))]
    assert max(found) < 1


def test_a_reduced_scale_keeps_within_a_grey_level_on_real_photographs() -> None:
    differ: list[float] = []
    whole: list[float] = []
    for path in photographs(60):
        data = path.read_bytes()
        file = opened(data)
        boxes = boxes_in(file.height, file.width, 4)
        for size in (24, 40, 96):
            for box in boxes:
                at_full_scale = file.stored(MARGIN * size / min(box[2:])).scale == 1
                (whole if at_full_scale else differ).extend(differences(data, size, box[None]))
    assert max(whole) < 0.25
    assert len(differ) > 100
    assert np.mean(differ) < 0.4
    assert max(differ) < 3
    # Beyond are cloths whose weave is finer than the view's pixels: both ways alias it.
    assert np.quantile(differ, 0.97) < 1


def test_a_large_photograph_is_not_decoded_at_full_scale() -> None:
    file = opened(jpeg(textured(2000, 3000)))
    assert [file.stored(share).pixels.shape[:2] for share in (0.1, 0.2, 0.4, 0.6)] == [
        (250, 375),
        (500, 750),
        (1000, 1500),
        (2000, 3000),
    ]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [16, 100])
def test_boxes_are_those_of_the_upright_image(orientation: int, size: int) -> None:
    shape = (203, 310)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = jpeg(textured(*shape), exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    file = opened(data)
    assert (file.width, file.height) == upright.size
    boxes = boxes_in(file.height, file.width, 6)
    for view, box in zip(cut_views(file, image_options(size), boxes), boxes.tolist(), strict=True):
        theirs = tv.pil_to_tensor(tv.resized_crop(upright, *box, [size, size]))
        assert (view.int() - theirs.int()).abs().double().mean() < 1
    view = original_view_of(file, image_options(size, size + 10))
    theirs = original_view(upright, image_options(size, size + 10))
    assert (view.int() - theirs.int()).abs().double().mean() < 1


@pytest.mark.parametrize("resize", [None, 40, 70])
@pytest.mark.parametrize("shape", [(120, 160), (161, 97), (36, 36), (30, 900), (1, 50), (20, 25)])
def test_the_original_view_is_that_of_representations(
    shape: tuple[int, int], resize: int | None
) -> None:
    options = image_options(36, resize)
    for channels in (3, 1):
        options = image_options(36, resize, channels)
        for data in (jpeg(textured(*shape)), jpeg(textured(*shape).convert("L"))):
            ours, theirs = (
                original_view_of(opened(data), options),
                original_view(decode(data), options),
            )
            assert ours.shape == theirs.shape == (channels, 36, 36)
            assert (ours.int() - theirs.int()).abs().double().mean() < 1


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "TIFF"])
def test_other_formats_are_cut_alike(kind: str) -> None:
    file = io.BytesIO()
    image = textured(90, 70)
    image.save(file, kind, **({"lossless": True} if kind == "WEBP" else {}))
    boxes = boxes_in(90, 70, 5)
    found = cut_views(opened(file.getvalue()), image_options(24), boxes)
    assert all(map(torch.equal, found, cut_views(opened(image), image_options(24), boxes)))
    assert max(differences(file.getvalue(), 24, boxes)) < 1


def test_a_file_of_the_views_size_is_its_original_view() -> None:
    data = jpeg(textured(32, 32))
    pixels = np.asarray(decode(data)).transpose(2, 0, 1)
    assert np.array_equal(original_view_of(opened(data), image_options(32)).numpy(), pixels)


def test_original_and_boxes_come_from_one_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    import simplejpeg

    decoded, decode_jpeg = [], simplejpeg.decode_jpeg

    def counted(data: bytes, **options: Any) -> Any:
        decoded.append(data)
        return decode_jpeg(data, **options)

    monkeypatch.setattr(simplejpeg, "decode_jpeg", counted)
    data, boxes, image = jpeg(textured(90, 120)), boxes_in(90, 120, 4), image_options(32)
    every = cut_views(opened(data), image, boxes, original=True)
    assert len(decoded) == 1
    assert torch.equal(every[0], original_view_of(opened(data), image))
    assert all(map(torch.equal, every[1:], cut_views(opened(data), image, boxes)))


def test_a_cut_file_is_refused_by_name_of_its_fault() -> None:
    data = jpeg(textured(90, 120))
    with pytest.raises(DataError, match="Not a readable image"):
        cut_views(opened(data[: len(data) // 2]), image_options(32), original=True)


def _variants(path: Path) -> Iterator[bytes]:
    image = Image.open(path).convert("RGB")
    for options in (
        {},
        {"subsampling": 0},
        {"subsampling": 2, "progressive": True},
        {"quality": 30, "optimize": True},
        {"restart_marker_rows": 1},
    ):
        yield jpeg(image, **options)
    yield jpeg(image.convert("L"))
    yield path.read_bytes()


def test_at_full_scale_pillow_decodes_the_same_pixels_to_the_bit() -> None:
    for path in photographs(12):
        for data in _variants(path):
            theirs = Image.open(io.BytesIO(data))
            assert np.array_equal(np.asarray(decode(data)), np.asarray(theirs))
            assert decode(data).mode == theirs.mode
