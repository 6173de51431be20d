"""Folders of images: names of any kind, splits, chosen classes."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import EpsImagePlugin, ExifTags, Image
from replicas import OPTIONS, labels_of, opened, picture, pixels_of, too_deep

from pipeline.base.errors import DataError
from pipeline.datasets.split import GroupOptions
from pipeline.images.decoding import decode


def test_names_of_any_kind_in_nested_and_linked_folders(tmp_path: Path) -> None:
    picture(tmp_path / "outside" / "Straße 1.PNG", 0)
    picture(tmp_path / "images" / "猫" / "a b" / "Ünï côdé.JPEG", 1)
    picture(tmp_path / "images" / "猫" / "x.JpG", 2)
    (tmp_path / "images" / "two words").symlink_to(tmp_path / "outside")
    (tmp_path / "images" / "猫" / "linked.png").symlink_to(tmp_path / "outside" / "Straße 1.PNG")
    (tmp_path / "images" / "猫" / "notes.txt").write_text("not an image")
    (tmp_path / "images" / ".cache").mkdir()
    source = opened(kind="image_folder", root=str(tmp_path / "images"))
    assert source.classes == ("two words", "猫")
    assert [item.name for item in source.splits["train"]] == [
        "two words/Straße 1.PNG",
        "猫/a b/Ünï côdé.JPEG",
        "猫/linked.png",
        "猫/x.JpG",
    ]
    assert [source.read(item).extension for item in source.splits["train"]] == [
        "png",
        "jpg",
        "png",
        "jpg",
    ]
    assert source.unlisted.others == {".txt": 1}


def test_a_folder_without_an_image_says_what_there_is(tmp_path: Path) -> None:
    for name in ("a.heic", "b.HEIC", "sub/c.heic", "README", ".hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"There are 3 \.heic, 1 no ending\.$"):
        opened(kind="image_folder", root=str(tmp_path), labels="none")


def pixels() -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize(
    ("name", "mode", "options"),
    [
        ("a.bmp", "RGB", {}),
        ("a.gif", "P", {}),
        ("a.tif", "CMYK", {}),
        ("a.tiff", "RGBA", {"compression": "tiff_lzw"}),
        ("a.jp2", "RGB", {"irreversible": False}),
        ("a.pgm", "L", {}),
    ],
)
def test_other_formats_are_packed_as_they_are_decoded(
    tmp_path: Path, name: str, mode: str, options: dict[str, Any]
) -> None:
    pixels().convert(mode).save(tmp_path / name, **options)
    source = opened(kind="image_folder", root=str(tmp_path))
    (item,) = source.splits["train"]
    assert source.read(item).extension == "png"
    expected = decode((tmp_path / name).read_bytes())
    assert np.array_equal(pixels_of(source, item), np.asarray(expected))


def test_a_turned_tiff_is_packed_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    pixels().save(tmp_path / "a.tif", exif=exif)
    source = opened(kind="image_folder", root=str(tmp_path))
    turned = np.asarray(pixels().transpose(Image.Transpose.ROTATE_270))
    assert np.array_equal(pixels_of(source, source.splits["train"][0]), turned)


def test_no_other_program_is_run_to_read_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    images = tmp_path / "images"
    images.mkdir()
    pixels().save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(images / "a.tif")
    source = opened(kind="image_folder", root=str(images))
    with pytest.raises(DataError, match=r"a\.tif: Not a readable image: its bytes are not a"):
        source.read(source.splits["train"][0])
    assert not (tmp_path / "ran").exists()


def test_split_folders_without_classes_and_chosen_classes(tmp_path: Path) -> None:
    for i in range(3):
        picture(tmp_path / "flat" / "train" / f"{i}.png", i)
        picture(tmp_path / "flat" / "test" / f"{i}.png", i)
        picture(tmp_path / "classes" / f"c{i}" / "x.png", i)
    flat = opened(kind="image_folder", root=str(tmp_path / "flat"))
    assert flat.classes is None
    assert labels_of(flat, "test") == [None] * 3
    (tmp_path / "list.txt").write_text("c2\nc0\n")
    chosen = {"root": str(tmp_path / "classes"), "classes": str(tmp_path / "list.txt")}
    assert opened(kind="image_folder", **chosen).classes == ("c0", "c2")
    unlabelled = opened(kind="image_folder", labels="none", **chosen)
    assert [item.name for item in unlabelled.splits["train"]] == ["c0/x.png", "c2/x.png"]
    assert labels_of(unlabelled, "train") == [None] * 2


def test_how_files_got_there_is_not_what_they_are(tmp_path: Path) -> None:
    dumps = [
        OPTIONS.validate_python({"kind": kind, "root": "x", "download": download}).model_dump()
        for kind in ("cifar10", "cifar100", "cifar20", "stl10", "voc07")
        for download in (False, True)
    ]
    assert dumps[::2] == dumps[1::2]


def test_names_that_are_not_utf8_are_written_out_and_read(tmp_path: Path) -> None:
    for number, raw in enumerate((b"caf\xe9/nu\xeb.png", "café/né.png".encode())):
        picture(tmp_path / os.fsdecode(raw), number)
    source = opened(kind="image_folder", root=str(tmp_path))
    assert source.classes == ("caf\\xe9", "café")
    items = {item.name: item for item in source.splits["train"]}
    assert sorted(items) == ["caf\\xe9/nu\\xeb.png", "café/né.png"]
    for name, item in items.items():
        item.name.encode()
        assert source.classes[item.label] == name.partition("/")[0]  # type: ignore[index]
        path = tmp_path / os.fsdecode(b"caf\xe9/nu\xeb.png" if "\\" in name else name.encode())
        assert source.read(item).data == path.read_bytes()
    picture(tmp_path / "caf\\xe9" / "nu\\xeb.png", 2)
    with pytest.raises(DataError, match="two files of the name"):
        opened(kind="image_folder", root=str(tmp_path))


def test_folders_that_cannot_be_listed_are_named(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "x.png", 1)
    too_deep(tmp_path / "a")
    source = opened(kind="image_folder", root=str(tmp_path))
    assert [item.name for item in source.splits["train"]] == ["a/x.png"]
    ((folder, why),) = source.unlisted.closed.items()
    assert folder.startswith("a/ddd")
    assert why == "File name too long"


def test_links_to_nothing_are_images_that_cannot_be_read(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "x.png", 1)
    (tmp_path / "a" / "gone.png").symlink_to(tmp_path / "unmounted" / "gone.png")
    (tmp_path / "a" / "itself.png").symlink_to("itself.png")
    (tmp_path / "a" / "gone.txt").symlink_to(tmp_path / "gone.txt")
    source = opened(kind="image_folder", root=str(tmp_path))
    items = {item.name: item for item in source.splits["train"]}
    assert sorted(items) == ["a/gone.png", "a/itself.png", "a/x.png"]
    for name in ("a/gone.png", "a/itself.png"):
        with pytest.raises(DataError, match="cannot be read"):
            source.read(items[name])


def test_folders_of_copies_are_left_out_and_counted(tmp_path: Path) -> None:
    copies = ("@eaDir/1.jpg/SYNOPHOTO_THUMB_XL.jpg", "c/@eaDir/2.jpg/T.jpg", "__MACOSX/c/._1.jpg")
    for number, name in enumerate((*copies, "lost+found/9.png", "c/.thumbnails/1.png", "c/1.jpg")):
        picture(tmp_path / name, number)
    (tmp_path / "c" / "@eaDir" / "note.txt").touch()
    source = opened(kind="image_folder", root=str(tmp_path))
    assert source.classes == ("c",)
    assert [item.name for item in source.splits["train"]] == ["c/1.jpg"]
    counts = {"@eaDir": 2, "__MACOSX": 1, "lost+found": 1, ".thumbnails": 1}
    assert source.unlisted.copies == counts
    assert source.unlisted.others == {}
    assert source.unlisted.empty == ()


def test_lines_of_a_list_end_where_files_lines_end(tmp_path: Path) -> None:
    names = ("one\u2028half", "two\u0085half", "three\x0chalf")
    for number, name in enumerate(names):
        picture(tmp_path / "images" / name / "x.png", number)
    groups = tmp_path / "groups.tsv"
    lines = [f"{name}/x.png\t{name}" for name in names]
    groups.write_bytes("\r\n".join([*lines, ""]).encode())
    key = GroupOptions(file=str(groups)).key()
    assert [key(f"{name}/x.png") for name in names] == list(names)
