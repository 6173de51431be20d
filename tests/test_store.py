"""The feature store: what is written comes back, and damage never passes unnoticed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import DamagedChunkError, StaleFeatureError, StoreError
from pipeline.store import (
    CHUNK_BYTES,
    FeatureStore,
    FeatureWriter,
    StoredFeature,
    chunk_rows,
    differing,
)

FINGERPRINT = {"format": 1, "representation": {"kind": "x", "J": 2}, "dtype": "float16"}
ROWS = np.random.default_rng(0).standard_normal((250, 7)).astype(np.float32)


def writer(root: Path) -> FeatureWriter:
    result = FeatureWriter(root / "work" / "x", FINGERPRINT)
    result.create_split("train", samples=250, width=7, dtype="float16", samples_per_shard=100)
    return result


@pytest.fixture
def feature(tmp_path: Path) -> StoredFeature:
    making = writer(tmp_path)
    making.write_reduction({"mean": np.ones(3, dtype=np.float32)}, {"kind": "pca"})
    for first in range(0, 250, 100):
        making.write_rows("train", first, ROWS[first : first + 100])
    return making.publish(FeatureStore(tmp_path / "features.zarr"), "x", {"answer": 42})


def test_what_is_written_comes_back(feature: StoredFeature) -> None:
    assert feature.splits == {"train": 250}
    assert (feature.width, feature.dtype) == (7, "float16")
    assert feature.report == {"answer": 42}
    assert np.array_equal(feature.read("train"), ROWS.astype(np.float16))
    assert np.array_equal(feature.read("train", 95, 205), ROWS[95:205].astype(np.float16))
    arrays, attributes = feature.reduction()
    assert arrays["mean"].tolist() == [1, 1, 1]
    assert attributes["kind"] == "pca"
    assert feature.verify() == []


def test_plain_zarr_reads_it(feature: StoredFeature) -> None:
    group = zarr.open_group(feature.path, mode="r")
    assert group.attrs["complete"] is True
    array = group["train"]
    assert isinstance(array, zarr.Array)
    assert np.array_equal(np.asarray(array[:]), ROWS.astype(np.float16))


def test_nothing_is_left_of_the_work(feature: StoredFeature) -> None:
    assert not (feature.path.parents[1] / "work" / "x").exists()


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [flip, truncate, empty, Path.unlink])
def test_damage_is_named_where_it_is(
    feature: StoredFeature, damage: Callable[[Path], None]
) -> None:
    chunk = feature.path / "train" / "c" / "1" / "0"
    damage(chunk)
    with pytest.raises(DamagedChunkError, match=str(chunk)):
        feature.read("train")
    assert [found.path for found in feature.verify()] == [str(chunk)]
    assert np.array_equal(feature.read("train", 0, 100), ROWS[:100].astype(np.float16))


def test_every_single_flipped_bit_is_seen(feature: StoredFeature) -> None:
    chunk = feature.path / "train" / "c" / "2" / "0"
    sound = chunk.read_bytes()
    for place in np.random.default_rng(1).integers(0, len(sound) * 8, 25):
        content = bytearray(sound)
        content[place // 8] ^= 1 << (place % 8)
        chunk.write_bytes(content)
        assert len(feature.verify()) == 1
    chunk.write_bytes(sound)
    assert feature.verify() == []


def test_an_unfinished_feature_cannot_be_opened(tmp_path: Path) -> None:
    making = writer(tmp_path)
    with pytest.raises(StoreError, match="not complete"):
        StoredFeature(making.path / "feature")


@pytest.mark.parametrize("content", ["", "{", '{"zarr_format": 3, "node_type": "group"}'])
def test_damaged_metadata_is_an_error(feature: StoredFeature, content: str) -> None:
    (feature.path / "zarr.json").write_text(content)
    with pytest.raises(StoreError, match="mvmr extract-features"):
        StoredFeature(feature.path)


def test_unknown_feature_and_split_name_the_valid_ones(feature: StoredFeature) -> None:
    store = FeatureStore(feature.path.parent)
    with pytest.raises(StoreError, match=r"no feature 'y'.*there: x"):
        store["y"]
    with pytest.raises(StoreError, match="Valid: train"):
        feature.read("test")


def test_a_stale_feature_says_what_differs(feature: StoredFeature) -> None:
    store = FeatureStore(feature.path.parent)
    assert store.check("x", FINGERPRINT).digest == feature.digest
    changed: dict[str, Any] = json.loads(json.dumps(FINGERPRINT))
    changed["representation"]["J"] = 3
    with pytest.raises(StaleFeatureError, match=r"representation\.J is now 3, was 2"):
        store.check("x", changed)


@pytest.mark.parametrize(
    ("value", "reason"), [(np.inf, "not finite"), (np.nan, "not finite"), (1e6, "float32")]
)
def test_a_number_that_cannot_be_stored_is_refused(
    tmp_path: Path, value: float, reason: str
) -> None:
    rows = ROWS[:100].copy()
    rows[17, 3] = value
    with pytest.raises(StoreError, match=f"sample 117.*{reason}"):
        writer(tmp_path).write_rows("train", 100, rows)


@given(
    samples=st.integers(1, 20_000),
    width=st.integers(1, 1_000_000),
    itemsize=st.sampled_from([2, 4]),
)
def test_chunks_divide_a_shard_and_stay_small(samples: int, width: int, itemsize: int) -> None:
    rows = chunk_rows(samples, width, itemsize)
    assert samples % rows == 0
    assert rows == 1 or rows * width * itemsize <= CHUNK_BYTES


def test_differences_are_found_at_any_depth() -> None:
    assert list(differing({"a": {"b": [1, 2]}, "c": 1}, {"a": {"b": [1, 3]}, "d": 2})) == [
        "a.b is now [1, 2], was [1, 3]",
        "c is now 1, was None",
        "d is now None, was 2",
    ]
    assert list(differing({"a": 1}, {"a": 1})) == []
