"""CIFAR-10, -100 and -20 from Python 2 pickles, which are read without running their code."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from replicas import (
    CIFAR_PIXELS,
    labels_of,
    opened,
    pixels_of,
    python_two_pickle,
    rows,
    write_cifar10,
    write_cifar100,
)

from pipeline.base.errors import DataError


def test_cifar10_batches_in_official_order(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    source = opened(kind="cifar10", root=str(tmp_path))
    assert source.classes is not None
    assert tuple(source.classes)[:3] == ("airplane", "automobile", "bird")
    assert labels_of(source, "train") == [0, 9, 1, 8, 2, 7, 3, 6, 4, 5]
    assert labels_of(source, "test") == [5, 4]
    items = [*source.splits["train"], *source.splits["test"]]
    assert items[3].name == "data_batch_2/00001"
    assert len({item.name for item in items}) == 12
    for item, pixels in zip(items, CIFAR_PIXELS, strict=True):
        assert np.array_equal(pixels_of(source, item), pixels)


@pytest.mark.parametrize(("kind", "classes", "top"), [("cifar100", 100, 99), ("cifar20", 20, 19)])
def test_cifar100_by_class_and_by_superclass(
    tmp_path: Path, kind: str, classes: int, top: int
) -> None:
    write_cifar100(tmp_path)
    source = opened(kind=kind, root=str(tmp_path))
    assert source.classes is not None
    assert len(source.classes) == classes
    assert labels_of(source, "train") == [top - i for i in range(8)]
    assert labels_of(source, "test") == [top - i for i in range(8, 12)]
    assert np.array_equal(pixels_of(source, source.splits["test"][0]), CIFAR_PIXELS[8])


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_batch_cannot_run_code(tmp_path: Path) -> None:
    batch = write_cifar10(tmp_path) / "data_batch_3"
    batch.write_bytes(pickle.dumps({"data": Evil(tmp_path / "ran"), "labels": []}))
    with pytest.raises(DataError, match=r"data_batch_3 is not a batch of CIFAR \(it asks for"):
        opened(kind="cifar10", root=str(tmp_path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("damage", ["cut", "missing", "labels", "text"])
def test_damaged_batches_are_named(tmp_path: Path, damage: str) -> None:
    batch = write_cifar10(tmp_path) / "test_batch"
    if damage == "cut":
        batch.write_bytes(batch.read_bytes()[:500])
    elif damage == "missing":
        batch.unlink()
    elif damage == "labels":
        batch.write_bytes(python_two_pickle({b"labels": [1, 10], b"data": rows(0, 2)}))
    else:
        batch.write_bytes(b"<html>")
    with pytest.raises(DataError, match="test_batch"):
        opened(kind="cifar10", root=str(tmp_path))
