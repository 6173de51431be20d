"""STL-10 from its binary files, with and without the unlabelled images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from replicas import STL_PIXELS, labels_of, opened, pixels_of, write_stl10

from pipeline.base.errors import DataError


@pytest.mark.parametrize(
    ("train", "labels", "images"),
    [
        ("train", [0, 9, 1, 1], range(4)),
        ("unlabeled", [None] * 3, range(6, 9)),
        ("train+unlabeled", [0, 9, 1, 1, None, None, None], [*range(4), *range(6, 9)]),
    ],
)
def test_stl10_with_and_without_the_unlabelled(
    tmp_path: Path, train: str, labels: list[Any], images: Sequence[int]
) -> None:
    write_stl10(tmp_path)
    source = opened(kind="stl10", root=str(tmp_path), train=train)
    assert source.classes is not None
    assert source.classes[9] == "truck"
    assert labels_of(source, "train") == labels
    assert labels_of(source, "test") == [2, 3]
    for item, number in zip(source.splits["train"], images, strict=True):
        assert np.array_equal(pixels_of(source, item), STL_PIXELS[number])
    assert np.array_equal(pixels_of(source, source.splits["test"][1]), STL_PIXELS[5])


@pytest.mark.parametrize("damage", ["train_X.bin", "train_y.bin", "label", "class_names.txt"])
def test_damaged_stl10_is_named(tmp_path: Path, damage: str) -> None:
    folder = write_stl10(tmp_path)
    if damage == "label":
        damage = "train_y.bin"
        np.array([1, 11, 2, 2], dtype=np.uint8).tofile(folder / damage)
    elif damage == "class_names.txt":
        (folder / damage).unlink()
    else:
        (folder / damage).write_bytes((folder / damage).read_bytes()[:-1])
    with pytest.raises(DataError, match=damage):
        opened(kind="stl10", root=str(tmp_path))


def test_a_listing_tells_replaced_content_and_changed_labels(tmp_path: Path) -> None:
    folder = write_stl10(tmp_path)
    before = opened(kind="stl10", root=str(tmp_path)).listing_digest()
    assert opened(kind="stl10", root=str(tmp_path)).listing_digest() == before
    np.array([1, 10, 2, 3], dtype=np.uint8).tofile(folder / "train_y.bin")
    assert opened(kind="stl10", root=str(tmp_path)).listing_digest() != before
