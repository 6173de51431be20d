"""ImageNet in all its usual layouts, its subsets, and Tiny ImageNet."""

from pathlib import Path

import numpy as np
import pytest
from replicas import labels_of, opened, picture
from scipy.io import savemat

from pipeline.base.errors import DataError
from pipeline.datasets.files import read_class_list

SYNSETS = ("n01440764", "n01443537", "n02085620")
VALIDATION = ("n02085620", "n01440764", "n01443537", "n01440764")


def write_imagenet_train(root: Path) -> None:
    for i, name in enumerate(SYNSETS):
        for j in range(2):
            picture(root / "train" / name / f"{name}_{j}.JPEG", 10 * i + j)


def write_validation_folders(root: Path) -> None:
    for i, name in enumerate(VALIDATION):
        picture(root / "val" / name / f"{i}.JPEG", i)


def write_flat_validation(root: Path) -> list[str]:
    names = [f"ILSVRC2012_val_{i:08d}" for i in range(1, 1 + len(VALIDATION))]
    for i, name in enumerate(names):
        picture(root / "val" / f"{name}.JPEG", 100 + i)
    return names


def write_devkit(root: Path) -> None:
    """Write the kit's two files; its numbers are not in the order of the class folders."""
    data = root / "ILSVRC2012_devkit_t12" / "data"
    data.mkdir(parents=True)
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    synsets = [(1, SYNSETS[2], "Chihuahua", 0), (2, SYNSETS[0], "tench", 0)]
    synsets += [(3, SYNSETS[1], "goldfish", 0), (1001, "n00001740", "entity", 3)]
    savemat(data / "meta.mat", {"synsets": np.array(synsets, dtype=kinds)[:, None]})
    numbers = {SYNSETS[2]: 1, SYNSETS[0]: 2, SYNSETS[1]: 3}
    lines = "".join(f"{numbers[name]}\n" for name in VALIDATION)
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text(lines)


def write_kaggle_labels(root: Path, names: list[str]) -> None:
    lines = [f"{n},{label} 1 2 3 4 \n" for n, label in zip(names, VALIDATION, strict=True)]
    # Not in the order of the names, as published.
    content = "ImageId,PredictionString\n" + "".join(reversed(lines))
    (root / "LOC_val_solution.csv").write_text(content)


@pytest.mark.parametrize("layout", ["folders", "devkit", "kaggle"])
def test_imagenet_by_folders_kit_or_table(tmp_path: Path, layout: str) -> None:
    write_imagenet_train(tmp_path)
    if layout == "folders":
        write_validation_folders(tmp_path)
    else:
        names = write_flat_validation(tmp_path)
        if layout == "devkit":
            write_devkit(tmp_path)
        else:
            write_kaggle_labels(tmp_path, names)
    source = opened(kind="imagenet", root=str(tmp_path))
    assert source.classes == SYNSETS
    assert labels_of(source, "train") == [0, 0, 1, 1, 2, 2]
    expected = [0, 0, 1, 2] if layout == "folders" else [2, 0, 1, 0]
    assert labels_of(source, "test") == expected
    item = source.splits["test"][0]
    assert source.read(item).data == (tmp_path / item.name).read_bytes()
    assert source.read(item).extension == "jpg"


@pytest.mark.parametrize("layout", ["folders", "kaggle"])
def test_a_subset_of_classes_by_a_list(tmp_path: Path, layout: str) -> None:
    write_imagenet_train(tmp_path)
    if layout == "folders":
        write_validation_folders(tmp_path)
    else:
        write_kaggle_labels(tmp_path, write_flat_validation(tmp_path))
    listing = tmp_path / "two.txt"
    listing.write_text(
        f"# two of them\n{SYNSETS[2]} Chihuahua\n\n{SYNSETS[0]} tench, Tinca tinca\n"
    )
    source = opened(kind="imagenet", root=str(tmp_path), classes=str(listing))
    assert source.classes == (SYNSETS[0], SYNSETS[2])
    assert labels_of(source, "train") == [0, 0, 1, 1]
    assert sorted(labels_of(source, "test")) == [0, 0, 1]


@pytest.mark.parametrize("count", [50, 100, 200])
def test_lists_of_classes_come_with_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.chdir(tmp_path)
    write_imagenet_train(tmp_path)
    names = read_class_list(f"imagenet{count}")
    assert len({*names}) == count
    assert all(len(name) == 9 and name.startswith("n") for name in names)
    for name in names:
        for split in ("train", "val"):
            picture(tmp_path / split / name / f"{name}.JPEG", 0)
    assert opened(kind="imagenet", root=".", classes=f"imagenet{count}").classes == tuple(names)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("n99999999\n", "no class folder .*n99999999"),
        ("", "is empty"),
        (f"{SYNSETS[0]}\n{SYNSETS[0]} again\n", "twice"),
        (None, "cannot be read"),
    ],
)
def test_a_wrong_list_of_classes(tmp_path: Path, content: str | None, message: str) -> None:
    write_imagenet_train(tmp_path)
    if content is not None:
        (tmp_path / "list.txt").write_text(content)
    with pytest.raises(DataError, match=message):
        opened(
            kind="image_folder", root=str(tmp_path / "train"), classes=str(tmp_path / "list.txt")
        )


def test_a_flat_validation_folder_needs_labels(tmp_path: Path) -> None:
    write_imagenet_train(tmp_path)
    with pytest.raises(DataError, match="asks for an agreement"):
        opened(kind="imagenet", root=str(tmp_path))
    write_flat_validation(tmp_path)
    with pytest.raises(
        DataError, match=r"ILSVRC2012_devkit_t12/ or Kaggle's LOC_val_solution\.csv"
    ):
        opened(kind="imagenet", root=str(tmp_path))
    write_devkit(tmp_path)
    (tmp_path / "val" / "ILSVRC2012_val_00000003.JPEG").unlink()
    with pytest.raises(DataError, match=r"00000003\.JPEG is missing"):
        opened(kind="imagenet", root=str(tmp_path))


def test_tiny_imagenet(tmp_path: Path) -> None:
    for i, name in enumerate(("n02124075", "n01443537")):
        for j in range(3):
            picture(tmp_path / "train" / name / "images" / f"{name}_{j}.JPEG", 10 * i + j, (64, 64))
        (tmp_path / "train" / name / f"{name}_boxes.txt").write_text(
            f"{name}_0.JPEG\t0\t10\t63\t58\n"
        )
        picture(tmp_path / "test" / "images" / f"test_{i}.JPEG", i)
    (tmp_path / "wnids.txt").write_text("n02124075\nn01443537\n")
    (tmp_path / "words.txt").write_text("n01443537\tgoldfish\n")
    labels = ("n01443537", "n02124075", "n02124075")
    for i in range(3):
        picture(tmp_path / "val" / "images" / f"val_{i}.JPEG", 50 + i)
    lines = [f"val_{i}.JPEG\t{name}\t0\t32\t44\t62\n" for i, name in enumerate(labels)]
    (tmp_path / "val" / "val_annotations.txt").write_text("".join(lines))
    source = opened(kind="tiny_imagenet", root=str(tmp_path))
    assert source.classes == ("n01443537", "n02124075")
    assert labels_of(source, "train") == [0, 0, 0, 1, 1, 1]
    assert labels_of(source, "test") == [0, 1, 1]
    assert set(source.splits) == {"train", "test"}
