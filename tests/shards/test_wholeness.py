"""Files that decoders accept although a part of them is gone."""

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.base.errors import DataError
from pipeline.base.progress import Silent
from pipeline.datasets.image_folder import ImageFolder
from pipeline.datasets.split import SplitOptions, cut
from pipeline.images.decoding import decode
from pipeline.shards.manifest import Manifest
from pipeline.shards.wholeness import lacks_end, require_whole
from pipeline.shards.writing import ShardOptions, write_split

PIXELS = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)


class Told(Silent):
    """Keeps what a stage says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        """Keep one sentence."""
        self.lines.append(text)


def file_of(form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, format=form, **options)
    return buffer.getvalue()


def half_zero(data: bytes) -> bytes:
    return data[: len(data) // 2] + bytes(len(data) - len(data) // 2)


def write(folder: Path, told: Told, *, bad: str) -> Manifest:
    source = ImageFolder(folder)
    return write_split(
        source,
        cut(source, SplitOptions(validation=0))["train"],
        folder.parent / "train",
        dataset="x",
        split="train",
        options=ShardOptions.model_validate({"on_bad_image": bad}),
        provenance={},
        progress=told,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for form in ("png", "jpeg"):
        (folder / f"whole.{form}").write_bytes(file_of(form))
    return folder


def test_a_png_whose_second_half_is_zeros_is_left_out_by_name(folder: Path) -> None:
    (folder / "half.png").write_bytes(half_zero(file_of("png")))
    with pytest.raises(DataError, match=r"half\.png: Not a whole PNG.*on_bad_image"):
        write(folder, Told(), bad="fail")
    manifest = write(folder, Told(), bad="skip")
    assert manifest.valid == 2
    assert list(manifest.left_out) == ["half.png"]


def test_a_png_with_one_wrong_bit_in_its_pixels_is_not_whole() -> None:
    data = bytearray(file_of("png"))
    require_whole(bytes(data))
    data[data.index(b"IDAT") + 2000] ^= 1
    with pytest.raises(DataError, match="checksum"):
        require_whole(bytes(data))


@pytest.mark.parametrize("kept", [20, 60, -12])
def test_a_png_that_is_cut_is_not_whole(kept: int) -> None:
    with pytest.raises(DataError, match="Not a whole PNG"):
        require_whole(file_of("png")[:kept])


def test_jpegs_without_an_end_are_packed_counted_and_named(folder: Path) -> None:
    (folder / "half.jpg").write_bytes(half_zero(file_of("jpeg")))
    (folder / "whole.jpg").write_bytes(file_of("jpeg").removesuffix(b"\xff\xd9") + bytes(99))
    told = Told()
    assert write(folder, told, bad="fail").valid == 4
    (line,) = told.lines
    assert "2 JPEG files of train have no end mark" in line
    assert "half.jpg" in line
    assert "whole.jpg" in line


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"exif": b"Exif\0\0" + b"\xff\xd9"}]
)
def test_whole_jpegs_have_an_end_whatever_follows_it(options: dict[str, object]) -> None:
    data = file_of("jpeg", **options)
    assert not lacks_end(data)
    assert not lacks_end(data + b"trailer of a phone")
    assert lacks_end(data[: len(data) // 2])
    assert lacks_end(half_zero(data))


def test_several_pictures_in_one_file_have_an_end() -> None:
    other = Image.fromarray(PIXELS[::-1])
    assert not lacks_end(file_of("mpo", save_all=True, append_images=[other]))


def with_chunk(data: bytes, kind: bytes, content: bytes, checksum: int | None = None) -> bytes:
    """Insert a chunk before the pixels of a PNG."""
    place = data.index(b"IDAT") - 4
    check = zlib.crc32(kind + content) if checksum is None else checksum
    chunk = len(content).to_bytes(4) + kind + content + check.to_bytes(4)
    return data[:place] + chunk + data[place:]


@pytest.mark.parametrize("form", ["png", "webp", "jpeg"])
@pytest.mark.parametrize(
    "exif", [b"Exif\0\0not a TIFF header", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12"]
)
def test_pixels_beside_unreadable_exif_are_read(form: str, exif: bytes) -> None:
    options = {"exif": exif, **({"lossless": True} if form == "webp" else {})}
    damaged, plain = file_of(form, **options), file_of(form, **{**options, "exif": b""})
    assert exif[6:] in damaged
    require_whole(damaged)
    assert np.array_equal(np.asarray(decode(damaged)), np.asarray(decode(plain)))


def test_a_wrong_checksum_beside_the_pixels_of_a_png_does_not_matter() -> None:
    require_whole(with_chunk(file_of("png"), b"eXIf", b"MM\0*\0\0\0\x08\0\0", checksum=1))
