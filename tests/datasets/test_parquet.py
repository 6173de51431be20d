"""Images in Parquet files, as Hugging Face datasets writes them."""

import io
import json
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from PIL import Image
from replicas import labels_of, opened

from pipeline.base.errors import ConfigError, DataError
from pipeline.base.progress import Silent
from pipeline.datasets.parquet import ParquetOptions
from pipeline.datasets.parquet_files import open_parquet
from pipeline.datasets.source import MultiLabel
from pipeline.datasets.split import SplitOptions, cut
from pipeline.images.decoding import decode
from pipeline.shards.listing import read_names
from pipeline.shards.reading import read_shard
from pipeline.shards.writing import ShardOptions, write_split

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

NAMES = ["ant", "bee", "wolf"]
CLASS_LABEL = {"names": NAMES, "_type": "ClassLabel"}
STRUCT = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])


def picture(seed: int, form: str = "jpeg", side: int = 8) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, format=form)
    return buffer.getvalue()


def write(
    path: Path,
    images: Sequence[Any],
    labels: Any = None,
    *,
    feature: Any = CLASS_LABEL,
    group: int = 2,
    column: str = "image",
    kind: Any = STRUCT,
) -> Path:
    """Write a file with the schema's metadata of the library that defines it."""
    arrays = {column: pyarrow.array(images, type=kind)}
    features = {column: {"_type": "Image"}}
    if labels is not None:
        arrays["label"] = pyarrow.array(labels)
        features["label"] = feature
    table = pyarrow.table(arrays)
    if feature is not None:
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        table = table.replace_schema_metadata(metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path, row_group_size=group, compression="snappy")
    return path


def noise(seed: int) -> bytes:
    """Return 100 kB that begin as a JPEG does."""
    return b"\xff\xd8\xff" + random.Random(seed).randbytes(100_000)


def rows(*seeds: int) -> list[dict[str, Any]]:
    return [{"bytes": picture(seed), "path": f"photos/{seed}.jpg"} for seed in seeds]


def test_files_as_hugging_face_writes_them(tmp_path: Path) -> None:
    for number, (seeds, labels) in enumerate([((0, 1, 2), [2, 0, 1]), ((3, 4), [1, -1])]):
        write(tmp_path / f"train-{number:05d}-of-00002.parquet", rows(*seeds), labels)
    write(tmp_path / "test-00000-of-00001.parquet", rows(5), [0])
    source = opened(
        kind="parquet", train=f"{tmp_path}/train-*.parquet", test=f"{tmp_path}/test-*.parquet"
    )
    assert source.classes is not None
    assert list(source.classes) == NAMES
    assert labels_of(source, "train") == [2, 0, 1, 1, None]
    assert labels_of(source, "test") == [0]
    items = source.splits["train"]
    assert items[4].name.endswith("train-00001-of-00002.parquet/000001/photos/4.jpg")
    for seed in (4, 0, 3, 1, 2, 0):
        encoded = source.read(items[seed])
        assert (encoded.data, encoded.extension) == (picture(seed), "jpg")
    assert source.read(source.splits["test"][0]).data == picture(5)


@pytest.mark.parametrize("scheme", ["file://", "memory://"])
def test_files_behind_a_url_without_labels(tmp_path: Path, scheme: str) -> None:
    path = write(tmp_path / "a.parquet", rows(0, 1), [0, 1])
    if scheme == "memory://":
        fsspec.filesystem("memory").put(str(path), str(path))
    source = opened(kind="parquet", train=f"{scheme}{tmp_path}/{{a..a}}.parquet", labels="none")
    assert source.classes is None
    assert labels_of(source, "train") == [None, None]
    assert source.read(source.splits["train"][1]).data == picture(1)


@pytest.mark.parametrize(
    ("labels", "feature", "classes", "expected"),
    [
        ([1, None, 7], None, ["1", "7"], [0, None, 1]),
        ([1.0, float("nan"), 2.0], None, ["1", "2"], [0, None, 1]),
        (["wolf", "ant", None], None, ["ant", "wolf"], [1, 0, None]),
        ([[2, 0], [], [1]], {"feature": CLASS_LABEL, "_type": "List"}, NAMES, [(0, 2), (), (1,)]),
        ([[2, 0], [], None], [CLASS_LABEL], NAMES, [(0, 2), (), None]),
    ],
)
def test_labels_in_other_forms(
    tmp_path: Path, labels: Any, feature: Any, classes: list[str], expected: list[Any]
) -> None:
    path = write(tmp_path / "a.parquet", rows(0, 1, 2), labels, feature=feature)
    source = opened(kind="parquet", train=str(path))
    assert list(source.classes or ()) == classes
    several = [MultiLabel(one) if isinstance(one, tuple) else one for one in expected]
    assert labels_of(source, "train") == several


def test_bytes_without_a_structure_and_formats_that_are_converted(tmp_path: Path) -> None:
    forms = ("png", "webp", "bmp", "gif")
    images = [picture(0, form) for form in forms]
    path = write(
        tmp_path / "a.parquet", images, feature=None, column="img", kind=pyarrow.large_binary()
    )
    source = opened(kind="parquet", train=str(path), image="img", labels="none")
    found = [source.read(item) for item in source.splits["train"]]
    assert [one.extension for one in found] == ["png", "webp", "png", "png"]
    assert [one.data for one in found[:2]] == images[:2]
    for one, image in zip(found, images, strict=True):
        assert decode(one.data).tobytes() == decode(image).tobytes()


def test_unreadable_images_are_named_and_counted(tmp_path: Path) -> None:
    images = [*rows(0, 1), {"bytes": None, "path": "a.jpg"}, {"bytes": b"", "path": None}, *rows(4)]
    path = write(tmp_path / "a.parquet", images, feature=None)
    source = opened(kind="parquet", train=str(path), labels="none")
    with pytest.raises(DataError, match="no bytes; use kind: table"):
        source.read(source.splits["train"][2])
    with pytest.raises(DataError, match="Not a readable image"):
        source.read(source.splits["train"][3])
    made = write_split(
        source,
        source.splits["train"],
        tmp_path / "shards/train",
        dataset="x",
        split="train",
        options=ShardOptions(samples=2, on_bad_image="skip"),
        provenance={},
        progress=Silent(),
    )
    assert made.invalid == {2, 3}
    shards = tmp_path / "shards/train"
    records = [record for number in range(3) for record in read_shard(shards, made, number)]
    assert [r.data for r in records if r.valid] == [picture(0), picture(1), picture(4)]
    assert len(set(read_names(shards, made))) == 5


def test_a_damaged_row_group_costs_its_own_images_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", rows(*range(6)), feature=None)
    content = bytearray(path.read_bytes())
    with parquet.ParquetFile(path) as file:
        place = file.metadata.row_group(1).column(0).dictionary_page_offset
    content[place : place + 80] = b"\xff" * 80
    path.write_bytes(content)
    source = opened(kind="parquet", train=str(path), labels="none")
    items = source.splits["train"]
    for seed in (0, 1, 4, 5):
        assert source.read(items[seed]).data == picture(seed)
    for seed in (2, 3):
        with pytest.raises(DataError, match="cannot be read"):
            source.read(items[seed])
    path.write_bytes(content[:-10])
    with pytest.raises(DataError, match="not a whole Parquet file"):
        opened(kind="parquet", train=str(path), labels="none")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"image": "imag"}, ConfigError, r"Did you mean 'image'\? .* Set dataset\.source\.image"),
        ({"labels": "lab"}, ConfigError, r"Did you mean 'label'\? .* Set dataset\.source\.labels"),
        ({"image": "label"}, ConfigError, "holds no bytes"),
        ({"train": "{root}/nothing-*.parquet"}, DataError, "No Parquet file matches"),
        ({"train": "{root}/nothing.parquet"}, DataError, "cannot be opened"),
        ({"test": "{root}/other.parquet"}, DataError, "state other names of classes"),
        ({"test": "{root}/high.parquet"}, DataError, "class 7 is not one of the 3"),
        ({"labels": "image"}, DataError, "a label is a class's number or name"),
    ],
)
def test_mistakes_are_explained(
    tmp_path: Path, options: dict[str, str], error: type[Exception], message: str
) -> None:
    write(tmp_path / "a.parquet", rows(0, 1), [0, 1])
    write(tmp_path / "other.parquet", rows(2), [0], feature={**CLASS_LABEL, "names": ["cat"]})
    write(tmp_path / "high.parquet", rows(2), [7])
    given = {name: text.replace("{root}", str(tmp_path)) for name, text in options.items()}
    with pytest.raises(error, match=message):
        opened(kind="parquet", **{"train": f"{tmp_path}/a.parquet", **given})


def test_names_of_classes_may_be_listed(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", rows(0, 1), [0, 2], feature=None)
    (tmp_path / "names.txt").write_text("cat\ndog\nelk\n")
    source = opened(
        kind="parquet", train=f"{tmp_path}/a.parquet", classes=str(tmp_path / "names.txt")
    )
    assert list(source.classes or ()) == ["cat", "dog", "elk"]


def test_groups_and_splits_follow_names_and_content(tmp_path: Path) -> None:
    images = [{"bytes": picture(i), "path": f"patient{i % 6}/{i}.jpg"} for i in range(60)]
    path = write(tmp_path / "a.parquet", images, feature=None, group=7)
    source = opened(kind="parquet", train=str(path), labels="none")
    options = SplitOptions.model_validate(
        {"validation": 0.4, "groups": {"pattern": "(patient[0-9]+)/"}}
    )
    splits = cut(source, options)
    patients = {
        split: {item.name.split("/")[-2] for item in items} for split, items in splits.items()
    }
    assert not patients["train"] & patients["validation"]
    # The same images in another file, in another order, keep their splits.
    again = write(tmp_path / "b.parquet", images[::-1], feature=None, group=60)
    moved = cut(opened(kind="parquet", train=str(again), labels="none"), SplitOptions())
    before = cut(source, SplitOptions())
    for split in before:
        shown = [{i.name.rsplit("/", 1)[-1] for i in some[split]} for some in (before, moved)]
        assert shown[0] == shown[1]


def test_what_a_file_holds_is_remembered_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.parquet", rows(0, 1), [0, 1])
    options, listings = ParquetOptions(train=str(path)), tmp_path / "listings"
    first = options.open_again(listings)
    looked: list[str] = []

    def noted(url: str) -> Any:
        looked.append(url)
        return open_parquet(url)

    monkeypatch.setattr("pipeline.datasets.parquet.open_parquet", noted)
    again = options.open_again(listings)
    assert not looked
    assert again.splits == first.splits
    assert again.classes == first.classes
    assert again.read(again.splits["train"][1]).data == picture(1)
    write(path, rows(0, 1, 2), [0, 1, 2])
    assert len(options.open_again(listings).splits["train"]) == 3
    assert looked == [str(path)] * 2  # once for its images, once because it changed


def test_random_reading_decodes_each_group_once_in_bounded_memory(tmp_path: Path) -> None:
    count = 400
    images = [{"bytes": noise(i), "path": None} for i in range(count)]
    path = tmp_path / "a.parquet"  # 40 MB in one group, of pages of 1 MB
    table = pyarrow.table({"image": pyarrow.array(images, type=STRUCT)})
    parquet.write_table(table, path, use_dictionary=False, write_batch_size=8)
    del images, table
    source = opened(kind="parquet", train=str(path), labels="none")
    items = list(enumerate(source.splits["train"]))
    random.Random(1).shuffle(items)
    usual = pyarrow.default_memory_pool()
    pool = pyarrow.proxy_memory_pool(usual)
    pyarrow.set_memory_pool(pool)
    try:
        with ThreadPoolExecutor(4) as threads:
            found = threads.map(lambda pair: source.read(pair[1]), items)
            for (number, _), encoded in zip(items, found, strict=True):
                assert encoded.data == noise(number)
    finally:
        pyarrow.set_memory_pool(usual)
    assert 1 << 20 < pool.max_memory() < 12 << 20
