"""Repair: damaged files are restored byte for byte, and nothing else is touched."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.base.errors import DamagedChunkError, DataError, StaleFeatureError, StoreError
from pipeline.base.progress import Silent
from pipeline.datasets.digits import Digits, DigitsOptions
from pipeline.datasets.source import Encoded, Item
from pipeline.datasets.split import SplitOptions, cut
from pipeline.features.extraction.cluster import ClusterOptions
from pipeline.features.extraction.engine import extract
from pipeline.features.extraction.recompute import repair
from pipeline.features.store import FeatureStore
from pipeline.images.original_view import ImageOptions
from pipeline.representations.hog import HogOptions
from pipeline.representations.representation import RepresentationOptions
from pipeline.representations.scattering import ScatteringOptions
from pipeline.shards.manifest import read_manifest, read_manifests
from pipeline.shards.repair import repair_split, split_damage
from pipeline.shards.writing import ShardOptions, write_split

IMAGE = ImageOptions(size=8, channels=1, mean=(0.3,), std=(0.4,))
FEATURES: dict[str, RepresentationOptions] = {
    "plain": HogOptions(cell=4),
    "hog": HogOptions(cell=4, dtype="int8"),
    "scattering": ScatteringOptions.model_validate({"J": 1, "L": 4, "reduce": {"pca": 20}}),
}
SHARDS = ShardOptions(samples=70)
Damage = Callable[[Path], None]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    source = DigitsOptions().open()
    items = cut(source, SplitOptions(validation=0.1))
    for split, count in (("train", 300), ("validation", 90)):
        write_split(
            source,
            items[split][:count],  # type: ignore[index]
            root / split,
            dataset="digits",
            split=split,  # type: ignore[arg-type]
            options=SHARDS,
            provenance={},
            progress=Silent(),
        )
    return root


@pytest.fixture
def store(shards: Path, tmp_path: Path) -> FeatureStore:
    store = FeatureStore(tmp_path / "features.zarr")
    extract(
        FEATURES,
        image=IMAGE,
        shards=shards,
        store=store,
        work=tmp_path / "work",
        options=ClusterOptions(workers=1),
        progress=Silent(),
    )
    return store


def mend(
    store: FeatureStore,
    shards: Path,
    root: Path,
    features: dict[str, RepresentationOptions] | None = None,
) -> None:
    damages = {name: found for name, found in store.verify().items() if found}
    assert damages
    repair(
        damages,
        features=FEATURES if features is None else features,
        image=IMAGE,
        shards=shards,
        store=store,
        work=root / "work",
        options=ClusterOptions(workers=1),
        progress=Silent(),
    )


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def stamps(root: Path) -> dict[str, int]:
    return {str(p.relative_to(root)): p.stat().st_mtime_ns for p in root.rglob("c/*/*")}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x04
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


DAMAGES = [flip, truncate, Path.unlink]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    "file",
    [
        "scattering/train/c/2/0",
        "hog/validation/c/1/0",
        "scattering/train/zarr.json",
        "hog/zarr.json",
        "scattering/zarr.json",
        "scattering/reduction/zarr.json",
        "scattering/reduction/basis/c/0/0",
        "hog/reduction/scale/zarr.json",
        "plain/reduction/zarr.json",
        "plain/reduction/component_mean/c/0",
        "plain/train/c/0/0",
    ],
)
def test_repair_gives_back_every_byte(
    store: FeatureStore, shards: Path, tmp_path: Path, file: str, damage: Damage
) -> None:
    whole, before = contents(tmp_path / "features.zarr"), stamps(tmp_path / "features.zarr")
    damage(tmp_path / "features.zarr" / file)
    mend(store, shards, tmp_path)
    assert contents(tmp_path / "features.zarr") == whole
    rows = {name for name in before if name != file and "reduction" not in name}
    after = stamps(tmp_path / "features.zarr")
    assert {name: after[name] for name in rows} == {name: before[name] for name in rows}
    assert not list((tmp_path / "work").glob("*-*"))


def test_several_damages_are_mended_together(
    store: FeatureStore, shards: Path, tmp_path: Path
) -> None:
    root = tmp_path / "features.zarr"
    whole = contents(root)
    for file in ("hog/train/c/0/0", "hog/train/zarr.json", "scattering/train/c/4/0"):
        flip(root / file)
    with pytest.raises(DamagedChunkError, match=r"store verify --repair"):
        store["hog"]
    mend(store, shards, tmp_path)
    assert contents(root) == whole


def test_a_feature_mends_itself_without_the_experiment(
    store: FeatureStore, shards: Path, tmp_path: Path
) -> None:
    whole = contents(tmp_path / "features.zarr")
    flip(tmp_path / "features.zarr" / "hog/train/c/0/0")
    mend(store, shards, tmp_path, features={})
    assert contents(tmp_path / "features.zarr") == whole


def test_who_does_not_know_how_it_was_made_cannot_mend_it(
    store: FeatureStore, shards: Path, tmp_path: Path
) -> None:
    flip(tmp_path / "features.zarr" / "hog/zarr.json")
    with pytest.raises(StoreError, match="no longer says how it was made"):
        mend(store, shards, tmp_path, features={})


def test_rows_made_otherwise_are_not_taken_for_the_experiments(
    store: FeatureStore, shards: Path, tmp_path: Path
) -> None:
    """A feature without its metadata must not pass for one of another specification."""
    flip(tmp_path / "features.zarr" / "hog/zarr.json")
    mend(store, shards, tmp_path, features={"hog": HogOptions(cell=2)})
    expected = extract(
        {"hog": HogOptions(cell=2)},
        image=IMAGE,
        shards=shards,
        store=FeatureStore(tmp_path / "other" / "features.zarr"),
        work=tmp_path / "other" / "work",
        options=ClusterOptions(workers=1),
        progress=Silent(),
    )
    assert np.array_equal(store["hog"].read("train"), expected["hog"].read("train"))


def test_what_can_no_longer_be_made_is_refused(
    store: FeatureStore, shards: Path, tmp_path: Path
) -> None:
    flip(tmp_path / "features.zarr" / "hog/train/c/0/0")
    other = tmp_path / "shards"
    source = DigitsOptions().open()
    write_split(
        source,
        source.splits["train"][:80],
        other / "train",
        dataset="digits",
        split="train",
        options=SHARDS,
        provenance={},
        progress=Silent(),
    )
    with pytest.raises(StaleFeatureError, match="not of the images that are in the shards now"):
        mend(store, other, tmp_path)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["000002.tar", "samples.jsonl"])
def test_a_damaged_tar_is_listed_and_made_again(tmp_path: Path, file: str, damage: Damage) -> None:
    source = DigitsOptions().open()
    items = source.splits["train"][:300]
    manifest = write_split(
        source,
        items,
        tmp_path,
        dataset="digits",
        split="train",
        options=SHARDS,
        provenance={},
        progress=Silent(),
    )
    whole = contents(tmp_path)
    assert split_damage(tmp_path, manifest) == []
    damage(tmp_path / file)
    found = split_damage(tmp_path, manifest)
    assert [damaged.path for damaged in found] == [tmp_path / file]
    repair_split(source, tmp_path, manifest, found, SHARDS)
    assert contents(tmp_path) == whole


class OtherDigits(Digits):
    """Digits whose scans have changed."""

    def read(self, item: Item) -> Encoded:
        """Return another digit."""
        return super().read(Item(f"{(int(item.name) + 1) % 1797:04d}"))


def test_a_tar_of_another_source_is_refused(tmp_path: Path) -> None:
    source = DigitsOptions().open()
    items = source.splits["train"][:80]
    manifest = write_split(
        source,
        items,
        tmp_path,
        dataset="digits",
        split="train",
        options=SHARDS,
        provenance={},
        progress=Silent(),
    )
    truncate(tmp_path / "000000.tar")
    with pytest.raises(DataError, match="cannot be made again as it was"):
        repair_split(OtherDigits(), tmp_path, manifest, split_damage(tmp_path, manifest), SHARDS)


def test_any_change_of_a_manifest_is_seen(shards: Path, tmp_path: Path) -> None:
    text = (shards / "train" / "manifest.json").read_text()
    (tmp_path / "manifest.json").write_text(text.replace('"labelled": 300', '"labelled": 301'))
    with pytest.raises(DataError, match="its seal does not fit"):
        read_manifest(tmp_path)
    assert read_manifests(shards)["train"].labelled == 300
