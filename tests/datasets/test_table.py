"""Tables of image files and labels."""

import csv
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from replicas import labels_of, opened

from pipeline.base.errors import ConfigError, DataError
from pipeline.base.progress import Silent
from pipeline.datasets.source import MultiLabel
from pipeline.datasets.split import SplitOptions, cut
from pipeline.images.decoding import decode
from pipeline.shards.packing import Changes, pack, plan_packing
from pipeline.shards.writing import ShardOptions


def save(path: Path, seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path.read_bytes()


def write(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]], **how: Any) -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, **how).writerows([header, *rows])
    return str(path)


@pytest.fixture
def images(tmp_path: Path) -> list[bytes]:
    return [save(tmp_path / f"photos/{i}.png", i) for i in range(6)]


def test_a_table_of_paths_and_names(tmp_path: Path, images: list[bytes]) -> None:
    save(tmp_path / "photos/5.bmp", 5)
    names = ["wolf", "ant", "", "bee, wild", "ant"]
    rows = [[f"photos/{i}.png", name, 7] for i, name in enumerate(names)]
    train = write(tmp_path / "train.csv", ["path", "label", "width"], rows)
    test = write(
        tmp_path / "test.tsv", ["path", "label"], [["photos/5.bmp", "ant"]], delimiter="\t"
    )
    source = opened(kind="table", train=train, test=test)
    assert list(source.classes or ()) == ["ant", "bee, wild", "wolf"]
    assert labels_of(source, "train") == [2, 0, None, 1, 0]
    assert labels_of(source, "test") == [0]
    for item, data in zip(source.splits["train"], images, strict=False):
        assert source.read(item).data == data
    converted = source.read(source.splits["test"][0])
    assert converted.extension == "png"
    assert decode(converted.data).tobytes() == decode(images[5]).tobytes()


@pytest.mark.parametrize(
    ("cells", "options", "classes", "expected"),
    [
        (["2", "0", "-1"], {}, ["0", "2"], [1, 0, None]),
        (["a;c", "", "b"], {"separator": ";"}, ["a", "b", "c"], [(0, 2), (), (1,)]),
        (["0 2", "1", "2"], {"separator": " "}, ["0", "1", "2"], [(0, 2), (1,), (2,)]),
        (["x", "y", "z"], {"labels": "none"}, [], [None, None, None]),
    ],
)
def test_labels_one_or_several_a_row(
    tmp_path: Path,
    images: list[bytes],
    cells: list[str],
    options: dict[str, str],
    classes: list[str],
    expected: list[Any],
) -> None:
    rows = [[f"{i}.png", cell] for i, cell in enumerate(cells)]
    table = write(tmp_path / "t.csv", ["file", "label"], rows)
    source = opened(
        kind="table", train=table, path="file", root=str(tmp_path / "photos"), **options
    )
    assert list(source.classes or ()) == classes
    several = [MultiLabel(one) if isinstance(one, tuple) else one for one in expected]
    assert labels_of(source, "train") == several
    assert source.read(source.splits["train"][1]).data == images[1]


def test_a_table_in_parquet_with_lists_of_labels(tmp_path: Path, images: list[bytes]) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    for part, first in (("a", 0), ("b", 3)):
        paths = [f"photos/{first + i}.png" for i in range(3)]
        table = pyarrow.table({"path": paths, "tags": [["x", "z"], [], ["y"]]})
        parquet.write_table(table, tmp_path / f"{part}.parquet")
    source = opened(kind="table", train=f"{tmp_path}/*.parquet", labels="tags")
    assert list(source.classes or ()) == ["x", "y", "z"]
    expected = [MultiLabel((0, 2)), MultiLabel(()), MultiLabel((1,))]
    assert labels_of(source, "train") == 2 * expected
    assert [source.read(item).data for item in source.splits["train"]] == images
    with pytest.raises(ConfigError, match=r"Unknown column 'tag'.*'tags'.*source\.labels"):
        opened(kind="table", train=f"{tmp_path}/a.parquet", labels="tag")


@pytest.mark.parametrize(
    ("rows", "options", "error", "message"),
    [
        ([["../secret.png", "a"]], {}, DataError, "row 1: '../secret.png' is no path below"),
        ([["/etc/passwd", "a"]], {}, DataError, "is no path below"),
        ([["photos/../../x", "a"]], {}, DataError, "is no path below"),
        ([["", "a"]], {}, DataError, "is no path below"),
        ([["photos/0.png", "a"]] * 2, {}, DataError, "row 2: 'photos/0.png' is in a table twice"),
        ([["photos/0.png", "a"], ["photos/1.png", "1"]], {}, DataError, "others names"),
        ([["photos/0.png"]], {}, DataError, "another number of cells"),
        ([["photos/0.png", "a", "b"]], {}, DataError, "another number of cells"),
        ([["photos/0.png", "a"]], {"path": "file"}, ConfigError, r"'file'.*source\.path"),
        ([["photos/0.png", "a"]], {"labels": "lable"}, ConfigError, "Did you mean 'label'"),
        ([["photos/0.png", "a"]], {"train": "{root}/no.csv"}, DataError, "cannot be read"),
        ([["photos/0.png", "a"]], {"train": "{root}/t.txt"}, ConfigError, "A table is a file"),
    ],
)
def test_mistakes_are_explained(
    tmp_path: Path,
    images: list[bytes],
    rows: list[list[str]],
    options: dict[str, str],
    error: type[Exception],
    message: str,
) -> None:
    table = write(tmp_path / "t.csv", ["path", "label"], rows)
    given = {name: text.replace("{root}", str(tmp_path)) for name, text in options.items()}
    with pytest.raises(error, match=message):
        opened(kind="table", **{"train": table, **given})


def test_absolute_paths_stay_below_a_root_that_is_named(
    tmp_path: Path, images: list[bytes]
) -> None:
    rows = [[str(tmp_path / "photos/0.png"), "a"]]
    table = write(tmp_path / "t.csv", ["path", "label"], rows)
    source = opened(kind="table", train=table, root=str(tmp_path))
    assert source.read(source.splits["train"][0]).data == images[0]


def test_missing_and_unreadable_files_are_counted_and_changes_are_followed(
    tmp_path: Path, images: list[bytes]
) -> None:
    (tmp_path / "photos/4.png").write_bytes(b"no image")
    rows = [[f"photos/{i}.png", str(i % 2)] for i in (0, 1, 2, 3, 4, 9)]
    table = write(tmp_path / "t.csv", ["path", "label"], rows)
    options, shards = ShardOptions(samples=4, on_bad_image="skip"), tmp_path / "shards"
    split = SplitOptions(validation=0)

    def packed() -> tuple[Changes, int]:
        source = opened(kind="table", train=table)
        plan = plan_packing(
            source,
            shards,
            split=split,
            options=options,
            provenance={"split": split.provenance(), "shards": {"samples": 4}},
            progress=Silent(),
        )
        manifests = pack(
            plan,
            source,
            shards,
            work=tmp_path / "packing",
            dataset="t",
            options=options,
            provenance={"split": split.provenance(), "shards": {"samples": 4}},
            progress=Silent(),
        )
        return plan.changes, manifests["train"].valid

    source = opened(kind="table", train=table)
    with pytest.raises(DataError, match=r"photos/9\.png cannot be read: No such file"):
        source.read(source.splits["train"][5])
    assert packed()[1] == 4
    save(tmp_path / "photos/9.png", 9)
    save(tmp_path / "photos/1.png", 11)
    changes, valid = packed()
    assert set(changes.replaced) == {"photos/1.png", "photos/9.png"}
    assert valid == 5


def test_images_of_one_group_stay_together(tmp_path: Path) -> None:
    rows = []
    for i in range(60):
        save(tmp_path / f"p{i % 6}/{i}.png", i)
        rows.append([f"p{i % 6}/{i}.png", "a"])
    source = opened(kind="table", train=write(tmp_path / "t.csv", ["path", "label"], rows))
    options = SplitOptions.model_validate({"validation": 0.4, "groups": {"pattern": "(p[0-9])/"}})
    splits = cut(source, options)
    groups = {split: {i.name.split("/")[0] for i in items} for split, items in splits.items()}
    assert not groups["train"] & groups["validation"]


def test_many_rows_are_read_one_by_one(tmp_path: Path) -> None:
    count, note = 20_000, "x" * 500  # 10 MB, of which paths and labels are 0.2 MB
    table = tmp_path / "t.csv"
    with table.open("w") as file:
        file.write("path,label,note\n")
        file.writelines(f"{i}.png,{i % 10},{note}\n" for i in range(count))
    tracemalloc.start()
    source = opened(kind="table", train=str(table))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(source.splits["train"]) == count
    assert peak / count < 1200  # bytes for each image
