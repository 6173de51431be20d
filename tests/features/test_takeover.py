"""An image is computed once: its rows outlive every arrangement of the images."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from growing import IMAGE, Collection, CountingOptions
from PIL import Image

from pipeline.base.errors import DamagedChunkError, StaleFeatureError
from pipeline.base.locations import names_in
from pipeline.datasets.split import SplitOptions
from pipeline.features.extraction.cluster import ClusterOptions
from pipeline.features.extraction.fingerprint import check_features
from pipeline.features.extraction.spot_check import SpotCheck, spot_check
from pipeline.features.store import FeatureWriter, StoredFeature, feature_damage
from pipeline.features.store.hierarchy import open_array
from pipeline.features.store.identities import places_of
from pipeline.features.store.integrity import IDENTITIES
from pipeline.loading.batch import SplitData
from pipeline.representations.hog import HogOptions
from pipeline.representations.storing import StoredType
from pipeline.shards.writing import ShardOptions


@pytest.fixture
def photos(tmp_path: Path) -> Collection:
    collection = Collection(tmp_path)
    collection.add(*range(100))
    collection.pack()
    assert collection.extract() == collection.passes == 100
    return collection


def renamed(photos: Collection) -> int:
    for path in sorted(photos.folder.rglob("*.png"))[::7]:
        path.rename(path.with_name(f"holiday {path.name}"))
    return 0


def another_seed(photos: Collection) -> int:
    photos.split = SplitOptions(seed=5, validation=0.3, test=0.1)
    return 0


def exact_splits(photos: Collection) -> int:
    photos.split = SplitOptions(method="exact", validation=0.3, test=0.1)
    return 0


def other_tars(photos: Collection) -> int:
    photos.options = ShardOptions(samples=7)
    return 0


def moved_to_another_class(photos: Collection) -> int:
    (photos.folder / "c").mkdir()
    for path in sorted((photos.folder / "a").glob("*.png"))[::5]:
        path.rename(photos.folder / "c" / path.name)
    return 0


def added(photos: Collection) -> int:
    photos.add(*range(100, 120))
    return 20


def removed(photos: Collection) -> int:
    for path in sorted(photos.folder.rglob("*.png"))[::9]:
        path.unlink()
    return 0


def replaced(photos: Collection) -> int:
    photos.save("a/0004.png", 1000)
    return 1


def all_at_once(photos: Collection) -> int:
    removed(photos)
    renamed(photos)
    other_tars(photos)
    another_seed(photos)
    return added(photos)


@pytest.mark.parametrize(
    "change",
    [
        *(renamed, another_seed, exact_splits, other_tars, moved_to_another_class),
        *(added, removed, replaced, all_at_once),
    ],
)
def test_only_new_images_pass_through_the_network(photos: Collection, change: Any) -> None:
    before = {name.split("/")[-1].removeprefix("holiday "): row for name, row in all_rows(photos)}
    new = change(photos)
    photos.pack()
    assert photos.extract() == photos.passes == new
    after = {name.split("/")[-1].removeprefix("holiday "): row for name, row in all_rows(photos)}
    same = after.keys() & before.keys() - ({"0004.png"} if change is replaced else set())
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    assert len(after) == len(photos.splits())
    agree(photos)
    assert photos.extract() == 0


def all_rows(photos: Collection) -> list[tuple[str, bytes]]:
    return list(photos.rows(photos.store["counted"]).items())


def agree(photos: Collection, **options: Any) -> None:
    """Check that the feature is whole, and what computing all of it anew gives.

    Kernels differ in the last place with the number of images in a batch.
    """
    feature = photos.store["counted"]
    assert feature_damage(feature.path) == []
    for split, manifest in photos.manifests().items():
        SplitData(photos.shards / split, manifest, {"counted": feature}, IMAGE)
    anew = Collection(photos.folder.parent, store=photos.folder.parent / "anew.zarr")
    anew.extract(**options)
    ours, theirs = photos.rows(feature), photos.rows(anew.store["counted"])
    assert ours.keys() == theirs.keys()
    for name, row in ours.items():  # of float16, as integers: within one unit in the last place
        steps = np.frombuffer(row, np.int16).astype(int) - np.frombuffer(theirs[name], np.int16)
        assert abs(steps).max() <= 1


def test_it_is_told_how_many_rows_are_taken_over(photos: Collection) -> None:
    added(photos)
    photos.pack()
    photos.extract()
    assert "counted: 100 of 120 rows taken over, 20 to compute." in photos.told.notes


def test_a_merged_folder_gives_its_rows_from_the_store_of_its_own(
    photos: Collection, tmp_path: Path
) -> None:
    other = Collection(tmp_path, "scans")
    other.add(*range(90, 150))
    other.pack()
    assert other.extract(others=[photos.store]) == 50
    both = Collection(tmp_path, "both")
    shutil.copytree(photos.folder, both.folder / "photos")
    shutil.copytree(other.folder, both.folder / "scans")
    both.pack()
    assert both.extract(others=[photos.store, other.store]) == 0
    assert photos.extract("under another name") == 0


def test_images_that_return_are_not_computed_again(photos: Collection, tmp_path: Path) -> None:
    shutil.move(photos.folder / "a", tmp_path / "aside")
    photos.pack()
    assert photos.extract() == 0
    shutil.move(tmp_path / "aside", photos.folder / "a")
    photos.pack()
    assert photos.extract() == 0
    agree(photos)


def test_rows_of_images_that_are_gone_survive_their_tar_getting_new_ones(
    photos: Collection, tmp_path: Path
) -> None:
    shutil.move(photos.folder / "a", tmp_path / "aside")
    added(photos)
    photos.pack()
    assert photos.extract() == 20
    assert not names_in(photos.store.superseded)  # the new feature has all rows of the old one
    shutil.move(tmp_path / "aside", photos.folder.parent / "photos" / "a2")
    photos.pack()
    assert photos.extract() == 0
    agree(photos)


def test_images_gone_before_a_feature_was_made_are_computed_when_they_return(
    photos: Collection, tmp_path: Path
) -> None:
    """Their rows are there, and hold zeros, which nobody may take for their values."""
    shutil.move(photos.folder / "a", tmp_path / "aside")
    photos.pack()
    assert photos.extract("later", width=3) == 50
    shutil.move(tmp_path / "aside", photos.folder / "a")
    photos.pack()
    assert photos.extract("later", width=3) == 50


def test_other_options_take_nothing_and_the_older_feature_is_kept(photos: Collection) -> None:
    before = photos.rows(photos.store["counted"])
    assert photos.extract(width=4) == 100
    assert any("width is now 4, was 6" in note for note in photos.told.notes)
    assert photos.store["counted"].width == 4
    assert photos.extract() == 0
    assert photos.rows(photos.store["counted"]) == before
    assert photos.extract(width=4) == 0
    assert len(list(photos.store.superseded.iterdir())) == 1


def test_a_superseded_feature_follows_the_images(photos: Collection) -> None:
    photos.extract(width=4)
    added(photos)
    photos.pack()
    assert photos.extract(width=4) == 20
    assert photos.extract(width=6) == 20
    agree(photos, width=6)


def test_what_a_newer_feature_covers_is_removed(photos: Collection) -> None:
    added(photos)
    photos.pack()
    photos.extract()
    assert not names_in(photos.store.superseded)


def test_a_forced_extraction_takes_nothing_over(photos: Collection) -> None:
    assert photos.extract(force=True) == 100


@pytest.mark.parametrize("damage", ["flip", "truncate", "unlink"])
def test_damaged_rows_are_never_taken_over(photos: Collection, damage: str) -> None:
    chunk = photos.store["counted"].path / "train" / "c" / "1" / "0"
    data = bytearray(chunk.read_bytes())
    data[5] ^= 1
    if damage == "flip":
        chunk.write_bytes(bytes(data))
    elif damage == "truncate":
        chunk.write_bytes(bytes(data[:40]))
    else:
        chunk.unlink()
    photos.split = SplitOptions(seed=5, validation=0.2, test=0.2)
    photos.pack()
    assert photos.extract() == 16
    agree(photos)


def test_damaged_identities_cost_time_and_nothing_else(photos: Collection) -> None:
    path = photos.store["counted"].path / IDENTITIES / "train" / "c" / "0" / "0"
    path.write_bytes(path.read_bytes()[:-3])
    added(photos)
    train = photos.manifests()["train"].samples
    photos.pack()
    assert photos.extract() == train + 20
    agree(photos)


def test_one_row_cannot_be_taken_for_another(photos: Collection) -> None:
    feature = photos.store["counted"]
    rows = feature.identities("train")
    assert rows is not None
    wanted = np.stack([rows[5], rows[3], np.zeros(16, np.uint8), rows[5] ^ 1])
    found = places_of(wanted, [feature])
    assert found.row.tolist() == [5, 3, -1, -1]
    assert [found.sources[i][1] for i in found.source[:2]] == ["train", "train"]
    half = rows[5].copy()
    half[8:] = 0  # the first half alone is not enough
    assert not places_of(half[None], [feature]).found.any()


FITTED: dict[str, Any] = {"reduce": {"pca": 3}}


def test_the_rows_of_a_fit_are_not_computed_again(photos: Collection) -> None:
    assert photos.extract("fitted", **FITTED) == photos.passes == 100
    anew = Collection(photos.folder.parent, store=photos.folder.parent / "anew.zarr")
    anew.options = photos.options
    assert anew.extract("fitted", **FITTED) == 100
    ours, theirs = (found.store["fitted"] for found in (photos, anew))
    assert photos.rows(ours) == photos.rows(theirs)


@pytest.mark.parametrize("reduce", [{"pca": 3}, {"projection": 5}, {"fidelity": 0.2}])
def test_rows_of_a_fit_are_what_computing_them_gives(
    photos: Collection, reduce: dict[str, float]
) -> None:
    hog = HogOptions.model_validate({"cell": 4, "reduce": reduce})
    check = checked(photos, photos.extract_as("hog", hog), 100)
    assert check.rows == 100
    assert check.wrong == ()


def test_a_basis_stays_and_names_what_it_was_fitted_on(photos: Collection) -> None:
    photos.extract("fitted", **FITTED)
    before = photos.store["fitted"]
    added(photos)
    photos.pack()
    assert photos.extract("fitted", **FITTED) == 20
    after = photos.store["fitted"]
    assert after.fingerprint["basis"] == before.fingerprint["basis"]
    assert after.digest != before.digest
    ours, theirs = before.reduction()[0], after.reduction()[0]
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    photos.extract("fitted", **FITTED, force=True)
    check_features(
        {"fitted": options(photos)},
        image=IMAGE,
        shards=photos.shards,
        store=photos.store,
        progress=photos.told,
    )


def options(photos: Collection) -> Any:
    return CountingOptions.model_validate({"log": str(photos.folder.parent / "log.txt"), **FITTED})


def test_what_another_data_set_was_fitted_to_needs_half_of_its_images(
    photos: Collection, tmp_path: Path
) -> None:
    photos.extract("fitted", **FITTED)
    basis = photos.store["fitted"].fingerprint["basis"]
    for name, numbers, shared in (("third", range(90, 190), 0), ("most", range(40, 140), 60)):
        other = Collection(tmp_path, name)
        other.add(*numbers)
        other.pack()
        assert other.extract("fitted", others=[photos.store], **FITTED) == 100 - shared
        assert (other.store["fitted"].fingerprint["basis"] == basis) == bool(shared)


def test_the_same_images_give_the_same_basis_on_every_machine(
    photos: Collection, tmp_path: Path
) -> None:
    photos.extract("fitted", **FITTED)
    other = Collection(tmp_path, store=tmp_path / "elsewhere.zarr")
    other.extract("fitted", **FITTED)
    assert other.store["fitted"].digest == photos.store["fitted"].digest


def test_a_basis_that_does_not_fit_new_images_is_told(photos: Collection) -> None:
    photos.extract("fitted", **FITTED)
    photos.told.notes.clear()
    photos.add(*range(100, 250))
    photos.pack()
    assert photos.extract("fitted", **FITTED) == photos.passes == 150  # measured on the way
    assert not [note for note in photos.told.notes if "fitted to other images" in note]
    unlike_those_of_before(photos)
    photos.pack()
    photos.extract("fitted", **FITTED)
    (note,) = [note for note in photos.told.notes if "fitted to other images" in note]
    assert "mvmr extract-features --only fitted --force" in note


def unlike_those_of_before(photos: Collection) -> None:
    """Add pictures that differ only in what the fitted components leave out."""
    weight = options(photos).build(IMAGE).weight.detach().double().numpy()  # (6, 192)
    basis = photos.store["fitted"].reduction()[0]["basis"]  # (6, 3)
    left_out = np.linalg.svd(basis, full_matrices=True)[0][:, 3:]
    directions = left_out.T @ np.linalg.pinv(weight).T  # (3, 192)
    rng = np.random.default_rng(0)
    for number in range(150):
        pattern = rng.normal(size=3) @ directions
        pixels = 128 + 100 * pattern / abs(pattern).max()
        image = pixels.reshape(3, 8, 8).transpose(1, 2, 0).round().astype(np.uint8)
        Image.fromarray(image).save(photos.folder / "a" / f"odd {number}.png")


def test_an_interrupted_takeover_goes_on(
    photos: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    added(photos)
    photos.split = SplitOptions(seed=5, validation=0.2, test=0.2)
    photos.pack()
    calls, whole = [], FeatureWriter.write_raw

    def killed(*arguments: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        whole(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(FeatureWriter, "write_raw", killed)
        with pytest.raises(KeyboardInterrupt):
            photos.extract()
    assert photos.extract() == 20
    agree(photos)


def test_training_reads_the_old_rows_while_new_ones_come(photos: Collection) -> None:
    """Rows stay where they are, so what was opened before goes on being right."""
    manifest = photos.manifests()["train"]
    feature = photos.store["counted"]
    data = SplitData(photos.shards / "train", manifest, {"counted": feature}, IMAGE)
    before = feature.read("train", 0, 5)
    photos.add(*range(100, 140))
    photos.pack()
    photos.extract()
    assert np.array_equal(feature.read("train", 0, 5), before)
    assert sum(len(list(data.records(n))) for n in range(len(manifest.shards))) == manifest.valid


def test_a_stale_feature_says_what_it_will_cost(photos: Collection) -> None:
    added(photos)
    photos.pack()
    wanted = CountingOptions.model_validate({"log": str(photos.folder.parent / "log.txt")})
    with pytest.raises(StaleFeatureError, match="computes only those that are new"):
        check_features(
            {"counted": wanted},
            image=IMAGE,
            shards=photos.shards,
            store=photos.store,
            progress=photos.told,
        )


def test_a_damaged_feature_is_still_refused(photos: Collection) -> None:
    (photos.store["counted"].path / "zarr.json").write_text("{}")
    with pytest.raises(DamagedChunkError, match="verify --repair"):
        photos.extract()


HOG = HogOptions(cell=4)


@pytest.mark.parametrize("stored_type", ["float16", "bfloat16", "float32", "int8"])
def test_rows_computed_again_agree_within_one_unit(
    photos: Collection, stored_type: StoredType
) -> None:
    hog = HogOptions(cell=4, dtype=stored_type)
    photos.extract_as("hog", hog)
    added(photos)
    photos.pack()
    check = checked(photos, photos.extract_as("hog", hog), 40)
    assert check.rows == 40
    assert check.wrong == ()
    assert check.largest <= 1


def test_a_wrong_row_is_found_and_named(photos: Collection) -> None:
    feature = photos.extract_as("hog", HOG)
    array = open_array(feature.path / "train", "r+")
    array[7] = np.asarray(array[7]) * np.float16(1.004)  # its checksum is right
    check = checked(photos, feature, 1000)
    assert check.rows == 100
    assert check.wrong == (("train", 7),)
    assert 2 < check.largest < 10


def checked(photos: Collection, feature: StoredFeature, count: int) -> SpotCheck:
    return spot_check(
        feature,
        count,
        seed=0,
        shards=photos.shards,
        work=photos.work,
        options=ClusterOptions(workers=1),
        progress=photos.told,
    )
