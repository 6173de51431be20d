"""The feature store: rows are read as they were written, and all damage is noticed."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given
from hypothesis import strategies as st
from stores import begin, store_rows

from pipeline.base.errors import DamagedChunkError, StaleFeatureError, StoreError
from pipeline.base.locations import Location
from pipeline.features.encoding import Encoding
from pipeline.features.store import (
    CHUNK_BYTES,
    FeatureStore,
    StoredFeature,
    chunk_rows,
    differing,
    feature_damage,
)
from pipeline.representations.storing import StoredType

ROWS = np.random.default_rng(0).standard_normal((250, 7)).astype(np.float32)


@pytest.fixture
def feature(tmp_path: Path) -> StoredFeature:
    return store_rows(tmp_path, "x", ROWS, samples_per_shard=100, stored_type="float16")


def test_what_is_written_comes_back(feature: StoredFeature) -> None:
    assert feature.splits == {"train": 250}
    assert (feature.width, feature.dtype) == (7, "float16")
    assert feature.report == {"answer": 42}
    assert np.array_equal(feature.read("train"), ROWS.astype(np.float16))
    assert np.array_equal(feature.read("train", 95, 205), ROWS[95:205].astype(np.float16))
    arrays, attributes = feature.reduction()
    assert arrays["mean"].tolist() == [1, 1, 1]
    assert attributes["components"] is None
    assert feature_damage(feature.path) == []


def test_plain_zarr_reads_it(feature: StoredFeature) -> None:
    group = zarr.open_group(feature.path, mode="r")
    assert group.attrs["complete"] is True
    array = group["train"]
    assert isinstance(array, zarr.Array)
    assert np.array_equal(np.asarray(array[:]), ROWS.astype(np.float16))


def test_nothing_is_left_of_the_work(feature: StoredFeature) -> None:
    assert not (feature.path.parents[1] / "work" / "x").exists()


def flip(path: Location) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(bytes(content))


def truncate(path: Location) -> None:
    path.write_bytes(path.read_bytes()[:20])


def remove(path: Location) -> None:
    path.unlink()


def empty(path: Location) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [flip, truncate, empty, remove])
def test_damage_is_named_where_it_is(
    feature: StoredFeature, damage: Callable[[Location], None]
) -> None:
    chunk = feature.path / "train" / "c" / "1" / "0"
    damage(chunk)
    with pytest.raises(DamagedChunkError, match=str(chunk)):
        feature.read("train")
    assert [found.path for found in feature_damage(feature.path)] == [chunk]
    assert np.array_equal(feature.read("train", 0, 100), ROWS[:100].astype(np.float16))


def test_every_single_flipped_bit_is_seen(feature: StoredFeature) -> None:
    chunk = feature.path / "train" / "c" / "2" / "0"
    sound = chunk.read_bytes()
    for place in np.random.default_rng(1).integers(0, len(sound) * 8, 25):
        content = bytearray(sound)
        content[place // 8] ^= 1 << (place % 8)
        chunk.write_bytes(bytes(content))
        assert len(feature_damage(feature.path)) == 1
    chunk.write_bytes(sound)
    assert feature_damage(feature.path) == []


def test_a_store_that_several_create_at_once_is_created(tmp_path: Path) -> None:
    ready = Barrier(4)

    def create(place: Path) -> None:
        ready.wait()
        FeatureStore(place).create()

    with ThreadPoolExecutor(4) as pool:
        for number in range(25):
            place = tmp_path / f"{number}.zarr"
            for _ in pool.map(create, [place] * 4):
                pass
            assert FeatureStore(place).names() == []


def test_an_unfinished_feature_cannot_be_opened(tmp_path: Path) -> None:
    making, _ = begin(tmp_path, "x", ROWS, samples_per_shard=100)
    with pytest.raises(StoreError, match="not complete"):
        StoredFeature(making.home)


@pytest.mark.parametrize("content", ["", "{", '{"zarr_format": 3, "node_type": "group"}'])
def test_damaged_metadata_is_an_error(feature: StoredFeature, content: str) -> None:
    (feature.path / "zarr.json").write_text(content)
    with pytest.raises(DamagedChunkError, match=r"x/zarr\.json.*verify --repair"):
        StoredFeature(feature.path)


def test_unknown_feature_and_split_name_the_valid_ones(feature: StoredFeature) -> None:
    store = FeatureStore(feature.path.parent)
    with pytest.raises(StoreError, match=r"no feature 'y'.*there: x"):
        store["y"]
    with pytest.raises(StoreError, match="Valid: train"):
        feature.read("test")


def test_a_stale_feature_says_what_differs(feature: StoredFeature) -> None:
    store = FeatureStore(feature.path.parent)
    assert store.check("x", feature.fingerprint).digest == feature.digest
    changed: dict[str, Any] = json.loads(json.dumps(feature.fingerprint))
    changed["representation"]["J"] = 3
    with pytest.raises(StaleFeatureError, match=r"representation\.J is now 3, was 2"):
        store.check("x", changed)


@pytest.mark.parametrize("name", ["train", "reduction", "reduction/mean"])
def test_a_changed_metadata_file_is_seen_even_where_it_can_be_read(
    feature: StoredFeature, name: str
) -> None:
    file = feature.path / name / "zarr.json"
    file.write_text(file.read_text().replace('"zarr_format": 3', '"zarr_format":  3'))
    with pytest.raises(DamagedChunkError, match=str(file)):
        StoredFeature(feature.path)
    assert [found.path for found in feature_damage(feature.path)] == [file]


def test_a_changed_attribute_is_seen(feature: StoredFeature) -> None:
    file = feature.path / "zarr.json"
    file.write_text(file.read_text().replace("42", "43"))
    with pytest.raises(DamagedChunkError, match="digest does not fit"):
        StoredFeature(feature.path)
    assert [found.path for found in feature_damage(feature.path)] == [file]


@pytest.mark.parametrize("damage", [flip, truncate, empty, remove])
def test_a_damaged_reduction_is_named(
    feature: StoredFeature, damage: Callable[[Location], None]
) -> None:
    chunk = feature.path / "reduction" / "mean" / "c" / "0"
    damage(chunk)
    with pytest.raises(DamagedChunkError, match=str(chunk)):
        feature.reduction()
    assert [found.path for found in feature_damage(feature.path)] == [chunk]


@pytest.mark.parametrize(
    ("value", "reason"), [(np.inf, "not finite"), (np.nan, "not finite"), (1e6, "float32")]
)
def test_a_number_that_cannot_be_stored_is_refused(
    tmp_path: Path, value: float, reason: str
) -> None:
    making, encoding = begin(tmp_path, "x", ROWS, samples_per_shard=100, stored_type="float16")
    rows = ROWS[:100].copy()
    rows[17, 3] = value
    with pytest.raises(StoreError, match=f"from sample 100 on: .*row 17 .*{reason}"):
        making.write_rows("train", 100, rows, encoding)


@pytest.mark.parametrize(
    ("stored_type", "bound"), [("float32", 0), ("float16", 2e-3), ("bfloat16", 1.6e-2)]
)
def test_every_type_comes_back_within_its_precision(
    tmp_path: Path, stored_type: StoredType, bound: float
) -> None:
    found = store_rows(tmp_path, "y", ROWS, samples_per_shard=100, stored_type=stored_type)
    assert feature_damage(found.path) == []
    np.testing.assert_allclose(found.read("train").astype(np.float32), ROWS, atol=bound, rtol=0)


def test_bfloat16_rounds_as_torch_does(tmp_path: Path) -> None:
    rows = np.random.default_rng(1).standard_normal((100, 50)).astype(np.float32) * 1e10
    expected = torch.from_numpy(rows).bfloat16().float().numpy()
    found = store_rows(tmp_path, "y", rows, samples_per_shard=100, stored_type="bfloat16")
    assert np.array_equal(found.read("train"), expected)
    assert np.dtype(found.dtype) == np.float32


def test_int8_is_right_to_half_a_step_of_each_column(tmp_path: Path) -> None:
    rows = ROWS * np.float32(10.0) ** np.arange(-3, 4, dtype=np.float32) + 5
    found = store_rows(tmp_path, "y", rows, samples_per_shard=100, stored_type="int8")
    step = 1.25 * np.ptp(rows, axis=0) / 254
    assert (np.abs(found.read("train") - rows) <= 0.51 * step).all()
    group = zarr.open_group(found.path, mode="r")
    raw = np.asarray(group["train"][:])  # type: ignore[index]
    scale, offset = (np.asarray(group[f"reduction/{n}"][:]) for n in ("scale", "offset"))  # type: ignore[index]
    assert raw.dtype == np.int8
    np.testing.assert_allclose(offset + scale * raw, found.read("train"))


def test_int8_saturates_beyond_the_sample_and_never_gives_the_gap() -> None:
    encoding = Encoding.fit("int8", ROWS)
    codes = encoding.encode(np.sign(ROWS) * 1e6)
    assert set(np.unique(codes)) == {-127, 127}
    assert Encoding.fit("int8", np.ones((4, 2))).encode(np.ones((4, 2))).tolist() == [[0, 0]] * 4


@pytest.mark.parametrize("stored_type", ["bfloat16", "int8"])
def test_a_missing_chunk_is_seen_in_whole_numbers_too(
    tmp_path: Path, stored_type: StoredType
) -> None:
    found = store_rows(tmp_path, "y", ROWS, samples_per_shard=100, stored_type=stored_type)
    chunk = found.path / "train" / "c" / "1" / "0"
    chunk.unlink()
    with pytest.raises(DamagedChunkError, match=str(chunk)):
        found.read("train")


@given(
    samples=st.integers(1, 20_000),
    width=st.integers(1, 1_000_000),
    itemsize=st.sampled_from([2, 4]),
)
def test_chunks_divide_a_shard_and_stay_small_where_that_can_be(
    samples: int, width: int, itemsize: int
) -> None:
    rows = chunk_rows(samples, width, itemsize)
    assert samples % rows == 0
    fitting = CHUNK_BYTES // (width * itemsize)
    if rows > max(1, fitting):  # only where anything that fits is tiny
        assert all(samples % few for few in range(max(2, fitting // 8 + 1), fitting + 1))


def test_a_prime_number_of_wide_rows_is_one_chunk() -> None:
    assert chunk_rows(997, 65_536, 4) == 997  # 250 MiB; 256 rows would fit, and 997 is prime
    assert chunk_rows(1000, 65_536, 4) == 250


def test_differences_are_found_at_any_depth() -> None:
    assert list(differing({"a": {"b": [1, 2]}, "c": 1}, {"a": {"b": [1, 3]}, "d": 2})) == [
        "a.b is now [1, 2], was [1, 3]",
        "c is now 1, was None",
        "d is now None, was 2",
    ]
    assert list(differing({"a": 1}, {"a": 1})) == []


@pytest.mark.parametrize(("first", "shape"), [(7, (4, 3)), (-1, (2, 3)), (0, (2, 1)), (0, (2, 4))])
def test_rows_that_do_not_fit_are_refused(
    tmp_path: Path, first: int, shape: tuple[int, int]
) -> None:
    rows = np.ones((10, 3), dtype=np.float32)
    writer, encoding = begin(tmp_path, "x", rows, samples_per_shard=5)
    with pytest.raises(StoreError, match="has 10 rows of 3 numbers"):
        writer.write_rows("train", first, np.ones(shape), encoding)
    with pytest.raises(StoreError, match="has 10 rows of 3 numbers"):
        writer.write_raw("train", first, np.ones(shape, dtype=np.float32))
    with pytest.raises(StoreError, match=r"float32; found rows 0 to 10 of shape .* float64"):
        writer.write_raw("train", 0, np.ones((10, 3)))
