"""What a folder of photographs is taken for."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image

from pipeline.base.errors import DataError
from pipeline.planning.survey import survey


def folder(root: Path, counts: Mapping[str, int], size: tuple[int, int] = (40, 30)) -> str:
    """Write images into the folders of `root`; "" is the root itself."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.new("RGB", size, (number, 0, 0)).save(root / name / f"{number}.png")
    return str(root)


def test_folders_of_several_images_are_classes(tmp_path: Path) -> None:
    found = survey(folder(tmp_path, {"boot": 12, "coat/winter": 8, "coat/summer": 9}))
    assert (found.options.labels, found.classes, found.images, found.side) == ("folders", 2, 29, 30)
    assert found.brought == ()
    assert "named by the folders" in found.labels


@pytest.mark.parametrize(
    ("counts", "why"),
    [
        ({"": 20}, "no folders"),
        ({"": 1, "boot": 12, "coat": 12}, "not all images are in folders"),
        ({"boot": 20}, "all images are in one folder"),
        ({"2023": 20, "2024-05": 20}, "by date"),
        ({"100CANON": 20, "101CANON": 20}, "by a camera"),
        ({"a": 3, "b": 3, "c": 40}, "fewer than 10"),
    ],
)
def test_other_folders_are_not(tmp_path: Path, counts: Mapping[str, int], why: str) -> None:
    found = survey(folder(tmp_path, counts))
    assert (found.options.labels, found.classes) == ("none", 0)
    assert found.images == sum(counts.values())
    assert why in found.labels


def test_splits_of_the_folder_are_recognised(tmp_path: Path) -> None:
    both = {f"{split}/{name}": 12 for split in ("Train", "val") for name in ("boot", "coat")}
    found = survey(folder(tmp_path / "labelled", both))
    assert (found.classes, found.brought) == (2, ("validation",))
    assert {split: len(items) for split, items in found.source.splits.items()} == {
        "train": 24,
        "validation": 24,
    }
    plain = survey(folder(tmp_path / "plain", {"train": 12, "validation": 4, "test": 5}))
    assert (plain.classes, plain.brought) == (0, ("validation", "test"))


def test_classes_without_training_images_leave_no_labels(tmp_path: Path) -> None:
    counts = {"train/boot": 12, "train/coat": 12, "test/boot": 2, "test/glove": 2}
    found = survey(folder(tmp_path, counts))
    assert found.classes == 0
    assert "glove" in found.labels


def test_the_side_is_that_of_images_that_can_be_read(tmp_path: Path) -> None:
    root = Path(folder(tmp_path, {"": 5}, size=(300, 200)))
    for number in range(3):
        (root / f"broken{number}.jpg").write_bytes(b"nothing")
    (root / "dangling.jpg").symlink_to(root / "gone.jpg")
    assert survey(str(root)).side == 200


def test_nothing_to_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no image below"):
        survey(folder(tmp_path / "empty", {"": 0}))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.jpg").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"None of 1 image can be read, such as 'a\.jpg'"):
        survey(str(tmp_path / "broken"))
