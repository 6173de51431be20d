"""Shards follow a folder whose pictures come, go, and change, at the cost of what has changed."""

import shutil
from pathlib import Path

import pytest
from growing import IMAGE, Collection

from pipeline.base.digests import sha256_of
from pipeline.base.errors import DataError
from pipeline.datasets.split import SplitOptions
from pipeline.loading.batch import SplitData
from pipeline.loading.loaders import LoadingOptions, training_loader
from pipeline.loading.resident import load_decoded
from pipeline.shards.listing import read_labels, read_names
from pipeline.shards.manifest import read_manifest
from pipeline.shards.reading import read_shard
from pipeline.shards.repair import split_damage
from pipeline.shards.writing import ShardOptions


@pytest.fixture
def photos(tmp_path: Path) -> Collection:
    collection = Collection(tmp_path)
    collection.add(*range(100))
    collection.pack()
    return collection


def tars(photos: Collection) -> dict[str, str]:
    return {str(p.relative_to(photos.shards)): sha256_of(p) for p in photos.shards.rglob("*.tar")}


def consistent(photos: Collection) -> None:
    """Check that tars, listing and manifest agree about every image, and with the folder."""
    there = {
        p.relative_to(photos.folder).as_posix(): p.read_bytes()
        for p in photos.folder.rglob("*.png")
    }
    seen = {}
    for split, manifest in photos.manifests().items():
        directory = photos.shards / split
        assert split_damage(directory, manifest) == []
        names, labels = read_names(directory, manifest), read_labels(directory, manifest)
        assert all(shard.samples == manifest.samples_per_shard for shard in manifest.shards[:-1])
        for number in range(len(manifest.shards)):
            for record in read_shard(directory, manifest, number):
                row = manifest.first_index(number) + record.row
                if row in manifest.invalid:
                    continue
                assert record.data == there[names[row]]
                assert manifest.classes is not None
                assert record.label == labels[row]
                assert manifest.classes[labels[row]] == names[row].partition("/")[0]  # type: ignore[index]
                seen[names[row]] = split
    assert seen.keys() == there.keys()
    assert photos.is_current()


def test_new_pictures_touch_only_the_last_tars(photos: Collection) -> None:
    before, splits = tars(photos), photos.splits()
    photos.add(*range(100, 120))
    assert not photos.is_current()
    plan = photos.pack()
    assert len(plan.changes.new) == 20
    assert not plan.anew
    consistent(photos)
    after = tars(photos)
    changed = {name for name in before if after[name] != before[name]}
    assert len(changed) <= 3  # the last tar of each split
    assert {name: photos.splits()[name] for name in splits} == splits
    shards = photos.told.phases
    read = sum(p.done for p in shards if p.what == "read images")
    assert read == 100 + 20


def test_pictures_that_go_become_invalid_rows(photos: Collection) -> None:
    before, splits = tars(photos), photos.splits()
    for number in (3, 50, 51):
        next(photos.folder.rglob(f"{number:04d}.png")).unlink()
    plan = photos.pack()
    assert len(plan.changes.gone) == 3
    assert tars(photos) == before
    consistent(photos)
    assert sum(m.gone for m in photos.manifests().values()) == 3
    assert photos.splits().items() <= splits.items()
    data = SplitData(photos.shards / "train", photos.manifests()["train"], {}, IMAGE)
    assert len(load_decoded(data)) == photos.manifests()["train"].valid
    options = LoadingOptions.model_validate({"mode": "streaming", "workers": 0})
    loader = training_loader(data, options, batch_size=4, seed=0)
    index = {int(i) for batch in loader for i in batch["index"]}
    assert not index & photos.manifests()["train"].invalid


def test_pictures_that_come_back_have_their_rows_again(photos: Collection) -> None:
    before, digests = photos.splits(), {s: m.digest for s, m in photos.manifests().items()}
    shutil.move(photos.folder / "a", photos.folder.parent / "aside")
    photos.pack()
    assert len(photos.splits()) == 50
    shutil.move(photos.folder.parent / "aside", photos.folder / "a")
    photos.pack()
    consistent(photos)
    assert photos.splits() == before
    assert photos.manifests()["train"].samples == sum(s == "train" for s in before.values())
    assert {s: m.gone for s, m in photos.manifests().items()} == dict.fromkeys(digests, 0)


def test_renamed_pictures_change_the_listing_only(photos: Collection) -> None:
    before, digests = tars(photos), {s: m.digest for s, m in photos.manifests().items()}
    for path in sorted(photos.folder.rglob("*.png"))[::7]:
        path.rename(path.with_name(f"holiday {path.name}"))
    plan = photos.pack()
    assert len(plan.changes.renamed) == 15
    assert str(plan.changes).startswith("15 renamed (a/holiday 0000.png, ")
    assert tars(photos) == before
    assert {s: m.digest for s, m in photos.manifests().items()} == digests
    consistent(photos)


def test_a_replaced_picture_is_another_one(photos: Collection) -> None:
    photos.save("a/0004.png", 1000)
    plan = photos.pack()
    assert plan.changes.replaced == ("a/0004.png",)
    consistent(photos)


def test_another_class_writes_the_tar_again_but_no_row_moves(photos: Collection) -> None:
    names = {s: read_names(photos.shards / s, m) for s, m in photos.manifests().items()}
    (photos.folder / "a/0004.png").rename(photos.folder / "b/0004.png")
    plan = photos.pack()
    assert plan.changes.relabelled == ("b/0004.png",)
    assert not plan.changes.renamed
    consistent(photos)
    for split, manifest in photos.manifests().items():
        now = read_names(photos.shards / split, manifest)
        assert [n.split("/")[1] for n in now] == [n.split("/")[1] for n in names[split]]


def test_a_new_class_leaves_the_numbers_of_the_others(photos: Collection) -> None:
    before = tars(photos)
    photos.add(*range(200, 220), folder="aardvark")
    photos.pack()
    assert photos.manifests()["train"].classes == ("a", "b", "aardvark")
    after = tars(photos)
    assert sum(after[name] != before[name] for name in before) <= 3
    consistent(photos)


def test_a_class_that_is_gone_is_not_a_class(photos: Collection) -> None:
    shutil.rmtree(photos.folder / "a")
    photos.pack()
    assert photos.manifests()["train"].classes == ("b",)
    consistent(photos)


@pytest.mark.parametrize("change", ["seed", "samples", "compact"])
def test_packing_anew_reads_nothing_it_knows_and_keeps_what_is_valid(
    photos: Collection, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    next(photos.folder.rglob("0003.png")).unlink()
    photos.pack()

    def undecodable(data: bytes) -> None:
        raise AssertionError("decoded an image that is known")

    monkeypatch.setattr("pipeline.shards.writing.decode", undecodable)
    if change == "seed":
        photos.split = SplitOptions(seed=5, validation=0.2, test=0.2)
    elif change == "samples":
        photos.options = ShardOptions(samples=10)
    plan = photos.pack(compact=change == "compact")
    assert plan.anew
    consistent(photos)
    assert sum(m.samples for m in photos.manifests().values()) == 99
    assert not (photos.shards.parent / "packing").exists()
    assert bool(plan.changes.moved) == (change == "seed")


def test_compacted_shards_are_those_of_a_first_packing(photos: Collection, tmp_path: Path) -> None:
    photos.add(*range(100, 130))
    photos.pack()
    photos.pack(compact=True)
    other = Collection(tmp_path / "other")
    other.add(*range(130))
    other.pack()
    assert tars(photos) == tars(other)


def test_exact_splits_are_drawn_anew_and_say_which_images_moved(photos: Collection) -> None:
    photos.split = SplitOptions(method="exact", validation=0.2, test=0.2)
    photos.pack()
    consistent(photos)
    assert photos.manifests()["test"].samples == 20
    photos.add(*range(100, 110))
    plan = photos.pack()
    assert plan.anew
    assert photos.manifests()["test"].samples == 22
    assert plan.changes.moved


def test_another_folder_is_not_taken_for_this_one(photos: Collection) -> None:
    shutil.rmtree(photos.folder)
    photos.add(*range(500, 520))
    with pytest.raises(DataError, match=r"Not one of the 100 images .* Give dataset.name another"):
        photos.pack()
    photos.pack(force=True)
    consistent(photos)


def test_a_picture_that_cannot_be_decoded_is_met_once(photos: Collection) -> None:
    photos.options = ShardOptions(samples=16, on_bad_image="skip")
    (photos.folder / "a/broken.png").write_bytes(b"no picture")
    photos.pack()
    manifests = photos.manifests()
    assert sum(m.samples - m.valid for m in manifests.values()) == 1
    photos.add(100)
    plan = photos.pack()
    assert [name.split("/")[1] for name in plan.changes.new] == ["0100.png"]
    assert sum(m.samples for m in photos.manifests().values()) == 102
    named = {name for m in photos.manifests().values() for name in m.left_out}
    assert named == {"a/broken.png"}
    photos.save("a/broken.png", 999)
    assert photos.pack().changes.replaced == ("a/broken.png",)
    assert not any(m.left_out for m in photos.manifests().values())
    (photos.folder / "a/broken.png").write_bytes(b"no picture either")
    photos.pack()
    photos.options = ShardOptions(samples=16)
    with pytest.raises(DataError, match=r"a/broken\.png: .*on_bad_image to skip"):
        photos.pack()


@pytest.mark.parametrize("step", ["tar", "listing", "manifest"])
def test_an_interrupted_update_is_finished_by_the_next(
    photos: Collection, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos.add(*range(100, 140))
    target = {
        "tar": "pipeline.shards.writing.write_listing",
        "listing": "pipeline.shards.writing.write_json",
        "manifest": "pipeline.shards.writing.settle",
    }[step]

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(target, killed)
        with pytest.raises(KeyboardInterrupt):
            photos.pack()
    # What is there can still be read by the manifest that is there.
    manifest = read_manifest(photos.shards / "train")
    for number in range(len(manifest.shards)):
        assert len(list(read_shard(photos.shards / "train", manifest, number))) > 0
    photos.pack()
    consistent(photos)
    assert not list(photos.shards.rglob("*.next"))
