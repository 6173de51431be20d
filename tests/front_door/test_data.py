"""Packed images and stored features from Python: samples, batches, rows, and what is refused."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from stranger import SIDE, photos

import mvmr
from pipeline.base.errors import ConfigError, DataError, StaleFeatureError, StoreError
from pipeline.representations.hog import hog

IMAGE = mvmr.Image(SIDE, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
FEATURES = {"hog": {"cell": 8, "dtype": "float32"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    photos(root / "photos", each=20)
    return root


@pytest.fixture(scope="module")
def data(folder: Path) -> mvmr.Dataset:
    packed = mvmr.pack(folder / "photos", str(folder / "packed"), samples=25, image=IMAGE)
    return mvmr.extract(FEATURES, packed)


def test_a_sample_is_the_image_with_its_own_targets(data: mvmr.Dataset, folder: Path) -> None:
    for split in ("train", "validation", "test"):
        for number, sample in enumerate(data[split]):
            pixels = torch.from_numpy(np.array(Image.open(folder / "photos" / sample.name)))
            assert torch.equal(sample.image, pixels.permute(2, 0, 1))
            assert data.classes[int(str(sample.label))] == Path(sample.name).parent.name
            normalised = (sample.image.double() / 255 - 0.5) / 0.25
            expected = hog(normalised[None], bins=24, cell=8).flatten()
            torch.testing.assert_close(
                sample.targets["hog"].double(), expected, rtol=1e-4, atol=1e-4
            )
            again = data[split][number]
            assert (again.name, again.index) == (sample.name, sample.index)
            assert torch.equal(again.image, sample.image)
    assert sum(len(data[split]) for split in data.manifests) == 60


def test_numbers_slices_and_ends(data: mvmr.Dataset) -> None:
    train = data["train"]
    assert train[-1].name == train.names[-1] == train[len(train) - 1].name
    assert [sample.name for sample in train[2:8:3]] == train.names[2:8:3]
    assert train.labels[3] == train[3].label
    count = len(train)
    with pytest.raises(
        IndexError, match=f"{count} images in train, from 0 to {count - 1}; found {count}"
    ):
        train[count]
    with pytest.raises(IndexError, match=f"{count} rows of train in 'hog'"):
        data.store["hog"]["train"][-count - 1]
    with pytest.raises(DataError, match="Did you mean 'train'"):
        data["trian"]
    with pytest.raises(DataError, match="Did you mean 'hog'"):
        train.features("hgo")


@pytest.mark.parametrize("mode", ["resident", "streaming"])
def test_batches_hold_the_same_samples(data: mvmr.Dataset, mode: str) -> None:
    loader = data.loader("train", batch_size=8, seed=3, workers=0, mode=mode)  # type: ignore[arg-type]
    by_index = {sample.index: sample for sample in data["train"]}
    seen = []
    for batch in loader:
        for row, index in enumerate(batch["index"].tolist()):
            assert torch.equal(batch["images"][row], by_index[index].image)
            assert torch.equal(batch["targets"]["hog"][row], by_index[index].targets["hog"])
            assert batch["labels"][row] == by_index[index].label
            seen.append(index)
    assert len(seen) == len(set(seen)) == 8 * len(loader)


@pytest.mark.parametrize("mode", ["resident", "streaming"])
def test_other_images_than_those_of_training_come_all_and_in_order(
    data: mvmr.Dataset, mode: str
) -> None:
    for split, more in (("validation", {}), ("train", {"shuffle": False})):
        loader = data.loader(split, batch_size=5, mode=mode, **more)  # type: ignore[arg-type]
        for _ in range(2):
            batches = list(loader)
            index = torch.cat([batch["index"] for batch in batches]).tolist()
            assert index == [sample.index for sample in data[split]]
            assert max(len(batch["index"]) for batch in batches) <= 5
            assert len(batches) == len(loader)
    image = data["train"][3].image
    assert torch.equal(next(iter(data.loader(shuffle=False)))["images"][3], image)


def test_a_store_shows_rows_as_they_were_stored(data: mvmr.Dataset, folder: Path) -> None:
    store = mvmr.FeatureStore(str(folder / "packed"))
    assert list(store) == store.keys() == ["hog"]
    assert len(store) == 1
    rows = store["hog"]["train"]
    whole = store["hog"].read("train")
    assert rows.shape == whole.shape
    np.testing.assert_array_equal(rows[3:7], whole[3:7])
    np.testing.assert_array_equal(rows[-1], whole[-1])
    np.testing.assert_array_equal(rows[10:2:-3], whole[10:2:-3])
    np.testing.assert_array_equal(np.asarray(rows), whole)
    assert rows[5:5].shape == (0, whole.shape[1])
    with pytest.raises(IndexError):
        rows[len(rows)]
    with pytest.raises(StoreError, match="Did you mean 'train'"):
        store["hog"]["trian"]
    assert "hog" in repr(store)
    assert "float32" in repr(store)
    assert "<td>hog</td>" in store._repr_html_()
    assert "60" in repr(data.store)


def test_rows_of_ones_own_come_back(data: mvmr.Dataset, folder: Path) -> None:
    draw = np.random.default_rng(0)
    rows = {split: draw.normal(size=(len(data[split]), 5)) for split in data.manifests}
    stored = data.store.put("mine", rows, data, made_from="a draw", dtype="float32")
    assert stored.width == 5
    opened = mvmr.open_dataset(folder / "packed", features=["mine", "hog"], image=IMAGE)
    for split, given in rows.items():
        np.testing.assert_allclose(opened[split].features("mine").numpy(), given, rtol=1e-6)
        np.testing.assert_allclose(opened[split][1].targets["mine"], given[1], rtol=1e-6)
    assert data.store.verify()["mine"] == []


def test_other_rows_under_the_same_words_are_another_feature(data: mvmr.Dataset) -> None:
    rows = {split: np.ones((len(data[split]), 3)) for split in data.manifests}
    first = data.store.put("again", rows, data, made_from="ones").digest
    same = data.store.put("again", rows, data, made_from="ones").digest
    other = {split: 2 * ones for split, ones in rows.items()}
    changed = data.store.put("again", other, data, made_from="ones")
    assert (same, changed.digest == first) == (first, False)
    assert (data.store["again"]["train"][:] == 2).all()


def test_rows_take_the_place_of_a_computed_feature_only_if_told_to(tmp_path: Path) -> None:
    photos(tmp_path / "photos", each=20)
    packed = mvmr.pack(tmp_path / "photos", tmp_path / "packed", image=IMAGE)
    data = mvmr.extract(FEATURES, packed)
    rows = {split: np.ones((len(data[split]), 3)) for split in data.manifests}
    with pytest.raises(StoreError, match=r"'hog' in .* was computed \(hog\).*replace=True"):
        data.store.put("hog", rows, data, made_from="ones")
    assert data.store["hog"].width == data.features["hog"].width
    data.store.put("hog", rows, data, made_from="ones", replace=True)
    assert data.store["hog"].width == 3
    with pytest.raises(StoreError, match=r"'hog' holds rows that were put there"):
        mvmr.extract(FEATURES, mvmr.open_dataset(tmp_path / "packed"))
    again = mvmr.extract(FEATURES, mvmr.open_dataset(tmp_path / "packed"), force=True)
    assert again.store["hog"].width == data.features["hog"].width


@pytest.mark.parametrize(
    ("dtype", "scale", "where"),
    [
        ("float16", 1e-8, "row 0 of train"),
        ("float16", 1e-6, "row 20 of train"),
        ("float16", 1e5, "row 0 of train"),
        ("float32", 1e-44, "row 18 of train"),
        ("float32", 1e200, "row 0 of train"),
        ("bfloat16", 1e39, "row 0 of train"),
        ("float16", np.array([1, 1e-8, 1]), "column 1 of train"),
    ],
)
def test_rows_that_a_type_does_not_hold_are_refused(
    data: mvmr.Dataset, dtype: Any, scale: Any, where: str
) -> None:
    draw = np.random.default_rng(0)
    rows = {s: scale * (1 + draw.random((len(data[s]), 3))) for s in data.manifests}
    with pytest.raises(DataError, match=f"^{dtype} does not hold {where}") as caught:
        data.store.put("small", rows, data, made_from="a draw", dtype=dtype)
    assert ('pass dtype="float32"' in str(caught.value)) == (dtype != "float32")
    assert "small" not in data.store


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_rows_that_a_type_holds_are_kept_to_its_precision(data: mvmr.Dataset, dtype: Any) -> None:
    draw = np.random.default_rng(0)
    rows = {s: draw.normal(size=(len(data[s]), 9)) * 100 for s in data.manifests}
    rows["train"][3] = 0  # a row of zeros is one
    rows["train"][:, 4] = 0
    stored = data.store.put("held", rows, data, made_from=f"a draw as {dtype}", dtype=dtype)
    found = stored.read("train")[data["train"].data.indices()].astype(float)
    error = np.abs(found - rows["train"]).max(1) / np.abs(rows["train"]).max(1).clip(1e-9)
    assert error.max() < 4e-3


@pytest.mark.parametrize("name", ["", ".", "..", "../evil", "a/b", ".hidden"])
def test_a_name_that_is_no_folders_leaves_the_store_alone(data: mvmr.Dataset, name: str) -> None:
    rows = {split: np.ones((len(data[split]), 3)) for split in data.manifests}
    before = data.store.keys()
    with pytest.raises(mvmr.MvmrError, match="A feature's name has letters"):
        data.store.put(name, rows, data, made_from="ones")
    assert data.store.keys() == before
    assert data.store.verify()["hog"] == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda rows: rows | {"train": rows["train"][:-1]}, r"rows \(\d+, width\) for train"),
        (lambda rows: {"train": rows["train"]}, "no rows for validation"),
        (lambda rows: rows | {"more": rows["train"]}, "no split 'more'"),
        (lambda rows: rows | {"train": rows["train"] * np.nan}, "NaN or infinity"),
        (lambda rows: rows | {"train": rows["train"] * 1j}, "real numbers"),
        (lambda rows: rows | {"test": rows["test"][:, :2]}, "rows of one width"),
        (lambda rows: rows | {"test": [1, 2]}, "NumPy array or a torch tensor"),
    ],
)
def test_rows_that_do_not_fit_the_images_are_refused(
    data: mvmr.Dataset, change: "object", reason: str
) -> None:
    rows = {split: np.ones((len(data[split]), 3)) for split in data.manifests}
    assert callable(change)
    with pytest.raises(DataError, match=reason):
        data.store.put("bad", change(rows), data, made_from="ones")
    assert "bad" not in data.store


def test_features_of_other_images_or_another_view_are_refused(
    data: mvmr.Dataset, folder: Path, tmp_path: Path
) -> None:
    other = mvmr.Image(SIDE, mean=(0.4, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    with pytest.raises(StaleFeatureError, match="computed from images prepared as"):
        mvmr.open_dataset(folder / "packed", features=["hog"], image=other)
    with pytest.raises(StaleFeatureError, match=r"representation\.cell is now 4, was 8"):
        mvmr.open_dataset(folder / "packed", features={"hog": {"cell": 4}}, image=IMAGE)
    with pytest.raises(StoreError, match="no feature 'clip'"):
        mvmr.open_dataset(folder / "packed", features=["clip"])
    again = mvmr.pack(folder / "photos", tmp_path / "again", seed=1, samples=25, image=IMAGE)
    (tmp_path / "again/features.zarr").rename(tmp_path / "away")
    (tmp_path / "again/features.zarr").symlink_to(folder / "packed/features.zarr")
    with pytest.raises(StaleFeatureError, match="'hog' is not of the images that are"):
        mvmr.open_dataset(str(again.path), features=["hog"], image=IMAGE)


def test_how_images_are_seen_is_known_from_features_or_asked_for(
    folder: Path, tmp_path: Path
) -> None:
    assert mvmr.open_dataset(folder / "packed", features=["hog"]).image == IMAGE
    unsaid = mvmr.pack(folder / "photos", tmp_path / "packed", samples=25)
    with pytest.raises(ConfigError, match=r"image=mvmr\.Image\(size\)"):
        unsaid["train"]
    with pytest.raises(DataError, match="no packed images"):
        mvmr.open_dataset(folder / "photos")


def test_what_images_were_packed_for_is_remembered(tmp_path: Path) -> None:
    photos(tmp_path / "photos", each=20)
    packed = mvmr.pack(tmp_path / "photos", tmp_path / "packed", image=IMAGE)
    before = {path: path.read_bytes() for path in (tmp_path / "packed/shards").rglob("*.*")}
    assert packed.image == mvmr.open_dataset(tmp_path / "packed").image == IMAGE
    larger = mvmr.Image(2 * SIDE)
    other = mvmr.open_dataset(tmp_path / "packed", image=larger)
    assert (other.image, other["train"][0].image.shape[1]) == (larger, 2 * SIDE)
    assert f"{2 * SIDE} px, 3 channels; packed for {SIDE} px" in repr(other)
    assert mvmr.open_dataset(tmp_path / "packed").image == IMAGE
    again = mvmr.pack(tmp_path / "photos", tmp_path / "packed", image=larger)
    assert again.image == mvmr.pack(tmp_path / "photos", tmp_path / "packed").image == larger
    assert before == {path: path.read_bytes() for path in before}  # no shard depends on it
    mvmr.extract(FEATURES, mvmr.open_dataset(tmp_path / "packed", image=IMAGE))
    assert mvmr.open_dataset(tmp_path / "packed", features=["hog"]).image == IMAGE
    (tmp_path / "packed/image.json").write_text('{"size": "large"}')
    with pytest.raises(DataError, match=r"image\.json is damaged \(image\.size"):
        mvmr.open_dataset(tmp_path / "packed")


def repacked(root: Path) -> None:
    photos(root / "more")
    for path in sorted((root / "more").rglob("*.png"))[90:]:
        path.rename(root / "photos/red" / f"new{path.name}")
    mvmr.pack(root / "photos", root / "packed", samples=25)


def put_anew(root: Path) -> None:
    data = mvmr.open_dataset(root / "packed")
    rows = {split: np.full((len(data[split]), 3), 2.0) for split in data.manifests}
    data.store.put("mine", rows, data, made_from="twos")


def removed(root: Path) -> None:
    shutil.rmtree(root / "packed/shards")


USES: list[Callable[[mvmr.Dataset], Any]] = [
    lambda data: data["train"],
    lambda data: data.loader(batch_size=4),
    lambda data: mvmr.extract({"dct": {}}, data),
    lambda data: mvmr.pretrain(data, out=Path(str(data.path)).parent / "run"),
    lambda data: data.store.put("a", {}, data, made_from="a"),
]
PARTS: list[Callable[[mvmr.DatasetSplit], Any]] = [
    lambda split: split[0],
    lambda split: list(split),
    lambda split: split.features("mine"),
    lambda split: split.labels,
    lambda split: split.names,
]


@pytest.mark.parametrize("change", [repacked, put_anew, removed])
def test_a_data_set_notices_that_it_is_no_longer_what_was_opened(
    change: Callable[[Path], None], tmp_path: Path
) -> None:
    photos(tmp_path / "photos", each=20)
    packed = mvmr.pack(tmp_path / "photos", tmp_path / "packed", image=IMAGE, samples=25)
    rows = {split: np.ones((len(packed[split]), 3)) for split in packed.manifests}
    packed.store.put("mine", rows, packed, made_from="ones")
    data = mvmr.open_dataset(tmp_path / "packed", features=["mine"])
    train, loader = data["train"], data.loader(batch_size=4, workers=0)
    assert len(list(loader)) == len(loader)
    mvmr.pack(tmp_path / "photos", tmp_path / "packed", samples=25)  # nothing has changed
    assert len(list(train)) == len(train)
    change(tmp_path)
    what = "the feature 'mine'" if change is put_anew else "the images"
    uses: list[Callable[[], Any]] = [partial(use, data) for use in USES]
    uses += [*(partial(part, train) for part in PARTS), lambda: list(loader)]
    for use in uses:
        with pytest.raises(DataError, match=f"{what} in it changed: open it again") as caught:
            use()
        assert "mvmr.open_dataset(" in str(caught.value)


def test_splits_of_the_folder_are_kept(tmp_path: Path) -> None:
    for split in ("train", "test"):
        photos(tmp_path / "photos" / split, each=10)
    data = mvmr.pack(tmp_path / "photos", tmp_path / "packed", image=IMAGE)
    assert set(data.manifests) == {"train", "validation", "test"}
    assert len(data["test"]) == 30
    assert all(name.startswith("test/") for name in data["test"].names)


def test_a_data_set_shows_itself(data: mvmr.Dataset) -> None:
    shown = repr(data)
    assert "train" in shown
    assert "3: blue, green, red" in shown
    assert "hog: " in shown
    assert "<th>train</th>" in data._repr_html_()
    assert "images at" in repr(data["train"])
