"""VOC 2007: several classes per image, and difficult objects, which do not count."""

import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from replicas import labels_of, opened, picture

from pipeline.base.errors import DataError
from pipeline.datasets.source import MultiLabel


def write_voc07(root: Path) -> Path:
    folder = root / "VOCdevkit" / "VOC2007"
    objects: Mapping[str, Sequence[tuple[str, int]]] = {
        "000005": (("chair", 0), ("chair", 1), ("person", 1)),
        "000007": (("car", 0),),
        "000012": (("dog", 1),),
        "000001": (("dog", 0), ("person", 0)),
    }
    for name, found in objects.items():
        picture(folder / "JPEGImages" / f"{name}.jpg", int(name))
        nodes = "".join(
            f"<object><name>{label}</name><pose>Left</pose><truncated>1</truncated>"
            f"<difficult>{difficult}</difficult><bndbox><xmin>48</xmin></bndbox>"
            "<part><name>head</name></part></object>\n"
            for label, difficult in found
        )
        path = folder / "Annotations" / f"{name}.xml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            f"<annotation>\n<folder>VOC2007</folder><filename>{name}.jpg</filename>\n"
            f"<size><width>9</width></size>\n{nodes}</annotation>\n"
        )
    sets = folder / "ImageSets" / "Main"
    sets.mkdir(parents=True)
    (sets / "trainval.txt").write_text("000005\n000007\n000012\n")
    (sets / "test.txt").write_text("000001\n")
    (sets / "train.txt").write_text("000005\n")
    return folder


def test_voc07_tells_difficult_from_absent(tmp_path: Path) -> None:
    folder = write_voc07(tmp_path)
    source = opened(kind="voc07", root=str(tmp_path))
    assert source.classes is not None
    assert len(source.classes) == 20
    place = {name: i for i, name in enumerate(source.classes)}
    assert labels_of(source, "train") == [
        MultiLabel((place["chair"],), ignored=(place["person"],)),
        MultiLabel((place["car"],)),
        MultiLabel((), ignored=(place["dog"],)),
    ]
    assert labels_of(source, "test") == [MultiLabel((place["dog"], place["person"]))]
    item = source.splits["test"][0]
    assert source.read(item).data == (folder / "JPEGImages" / "000001.jpg").read_bytes()


def test_voc07_from_both_archives(tmp_path: Path) -> None:
    folder = write_voc07(tmp_path / "elsewhere")
    for archive, lists in (
        ("VOCtrainval_06-Nov-2007.tar", ["trainval"]),
        ("VOCtest_06-Nov-2007.tar", ["test"]),
    ):
        with tarfile.open(tmp_path / archive, "w") as tar:
            for image_set in lists:
                path = folder / "ImageSets" / "Main" / f"{image_set}.txt"
                names = path.read_text().split()
                files = [path, *(folder / "JPEGImages" / f"{name}.jpg" for name in names)]
                files += [folder / "Annotations" / f"{name}.xml" for name in names]
                for file in files:
                    tar.add(file, arcname=file.relative_to(tmp_path / "elsewhere").as_posix())
    source = opened(kind="voc07", root=str(tmp_path))
    assert [len(source.splits[split]) for split in ("train", "test")] == [3, 1]


@pytest.mark.parametrize("damage", ["xml", "class", "image", "bomb"])
def test_damaged_voc07_is_named(tmp_path: Path, damage: str) -> None:
    folder = write_voc07(tmp_path)
    annotation = folder / "Annotations" / "000007.xml"
    if damage == "xml":
        annotation.write_text(annotation.read_text()[:60])
    elif damage == "class":
        annotation.write_text(annotation.read_text().replace("car", "cart"))
    elif damage == "bomb":
        entities = '<!ENTITY e0 "boom">' + "".join(
            f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 12)
        )
        annotation.write_text(
            f"<!DOCTYPE a [{entities}]><annotation><object><name>&e11;</name></object></annotation>"
        )
    else:
        (folder / "JPEGImages" / "000007.jpg").unlink()
    with pytest.raises(DataError, match="000007"):
        opened(kind="voc07", root=str(tmp_path))
