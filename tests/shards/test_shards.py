"""Tars and manifests: reproducible bytes, nothing lost, no silent errors."""

import gc
import io
import json
import tarfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

from pipeline.base.digests import sha256_of
from pipeline.base.errors import DataError
from pipeline.base.progress import Silent
from pipeline.datasets.digits import DigitsOptions
from pipeline.datasets.image_folder import ImageFolder
from pipeline.datasets.source import SPLITS, Encoded, Item, MultiLabel, Source
from pipeline.datasets.split import SplitOptions, cut
from pipeline.images.original_view import ImageOptions
from pipeline.loading.batch import SplitData
from pipeline.loading.loaders import LoadingOptions, training_loader
from pipeline.shards.listing import read_labels, read_names
from pipeline.shards.manifest import Manifest, read_manifest, read_manifests
from pipeline.shards.reading import read_shard
from pipeline.shards.writing import ShardOptions, write_split


def picture(path: Path, seed: int, size: tuple[int, int] = (9, 7)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    for i in range(12):
        picture(root / "zebra" / f"{i}.png", i)
        picture(root / "apfel grün" / "deep" / f"{i}.JPG", 100 + i)
    return root


def write(root: Path, out: Path, **options: Any) -> Manifest:
    source = ImageFolder(root)
    items = cut(source, SplitOptions(validation=0))["train"]
    return write_split(
        source,
        items,
        out,
        dataset="x",
        split="train",
        options=ShardOptions(samples=10, **options),
        provenance={},
        progress=Silent(),
    )


def test_files_pass_through_byte_for_byte_with_their_labels(folder: Path, tmp_path: Path) -> None:
    manifest = write(folder, tmp_path / "train")
    assert manifest.classes == ("apfel grün", "zebra")
    assert [shard.samples for shard in manifest.shards] == [10, 10, 4]
    names = read_names(tmp_path / "train", manifest)
    labels = read_labels(tmp_path / "train", manifest)
    assert sorted(names) == sorted(
        p.relative_to(folder).as_posix() for p in folder.rglob("*.*") if p.is_file()
    )
    for number in range(3):
        for record in read_shard(tmp_path / "train", manifest, number):
            index = manifest.first_index(number) + record.row
            assert record.data == (folder / names[index]).read_bytes()
            assert record.label == labels[index] == int(names[index].startswith("zebra"))


# The library leaves closing its files to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_library_reads_the_tars(folder: Path, tmp_path: Path) -> None:
    manifest = write(folder, tmp_path / "train")
    urls = [str(tmp_path / "train" / shard.name) for shard in manifest.shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    gc.collect()
    assert len(samples) == 24
    assert {int(sample["cls"]) for sample in samples} == {0, 1}


def test_same_input_and_seed_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    first, second = write(folder, tmp_path / "a"), write(folder, tmp_path / "b")
    assert first == second
    for shard in first.shards:
        assert (tmp_path / "a" / shard.name).read_bytes() == (
            tmp_path / "b" / shard.name
        ).read_bytes()
        assert sha256_of(tmp_path / "a" / shard.name) == shard.sha256


def test_the_manifest_comes_back_equal(folder: Path, tmp_path: Path) -> None:
    manifest = write(folder, tmp_path / "train")
    assert read_manifest(tmp_path / "train") == manifest
    assert read_manifests(tmp_path) == {"train": manifest}


def test_a_bad_image_stops_with_its_name(folder: Path, tmp_path: Path) -> None:
    (folder / "zebra" / "cut.png").write_bytes((folder / "zebra" / "0.png").read_bytes()[:60])
    with pytest.raises(DataError, match=r"zebra/cut\.png"):
        write(folder, tmp_path / "train")
    assert not (tmp_path / "train" / "manifest.json").exists()


def test_a_skipped_bad_image_keeps_its_row(folder: Path, tmp_path: Path) -> None:
    (folder / "zebra" / "empty.png").write_bytes(b"")
    manifest = write(folder, tmp_path / "train", on_bad_image="skip")
    assert manifest.samples == 25
    (bad,) = manifest.invalid
    assert read_names(tmp_path / "train", manifest)[bad] == "zebra/empty.png"
    records = [r for n in range(3) for r in read_shard(tmp_path / "train", manifest, n)]
    assert [i for i, record in enumerate(records) if not record.valid] == [bad]


def test_a_shortened_tar_is_an_error(folder: Path, tmp_path: Path) -> None:
    manifest = write(folder, tmp_path / "train")
    path = tmp_path / "train" / "000001.tar"
    members = 0
    with tarfile.open(path) as tar:  # cut between members, which `tarfile` takes for the end
        members = [m.offset for m in tar.getmembers()][8]
    path.write_bytes(path.read_bytes()[:members])
    with pytest.raises(DataError, match=r"ends without an end mark.*store verify --repair"):
        list(read_shard(tmp_path / "train", manifest, 1))


def test_a_tar_in_another_ones_place_is_an_error(folder: Path, tmp_path: Path) -> None:
    manifest = write(folder, tmp_path / "train")
    shards = tmp_path / "train"
    (shards / "000001.tar").write_bytes((shards / "000000.tar").read_bytes())
    with pytest.raises(DataError, match="expected sample 000001_000000"):
        list(read_shard(shards, manifest, 1))


def test_a_missing_tar_and_a_missing_manifest_are_errors(folder: Path, tmp_path: Path) -> None:
    manifest = write(folder, tmp_path / "train")
    (tmp_path / "train" / "000002.tar").unlink()
    with pytest.raises(DataError, match=r"000002\.tar cannot be read"):
        list(read_shard(tmp_path / "train", manifest, 2))
    with pytest.raises(DataError, match="mvmr shard"):
        read_manifest(tmp_path / "nowhere")


@pytest.mark.parametrize("content", ["", "{}", '{"format": 1}', '{"format": 99}'])
def test_a_damaged_manifest_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(DataError, match="mvmr shard --force"):
        read_manifest(tmp_path)


def test_flat_folders_are_unlabelled(tmp_path: Path) -> None:
    for i in range(5):
        picture(tmp_path / "flat" / f"bild {i}.webp", i)
    source = ImageFolder(tmp_path / "flat")
    assert source.classes is None
    assert [item.label for item in source.splits["train"]] == [None] * 5


def test_split_folders_and_class_order(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        for name in ("b", "a", "C"):
            picture(tmp_path / split / name / "x.png", 1)
    source = ImageFolder(tmp_path)
    assert source.classes == ("C", "a", "b")
    assert tuple(source.splits) == SPLITS


def test_bmp_is_stored_without_loss(tmp_path: Path) -> None:
    picture(tmp_path / "x" / "a" / "1.bmp", 5)
    source = ImageFolder(tmp_path / "x")
    encoded = source.read(source.splits["train"][0])
    assert encoded.extension == "png"
    stored = np.asarray(Image.open(io.BytesIO(encoded.data)))
    assert np.array_equal(stored, np.asarray(Image.open(tmp_path / "x" / "a" / "1.bmp")))


def test_links_are_followed_and_a_circle_ends(folder: Path) -> None:
    (folder / "zebra" / "again").symlink_to(folder / "zebra")
    (folder / "link").symlink_to(folder / "apfel grün")
    source = ImageFolder(folder)
    assert source.classes == ("apfel grün", "link", "zebra")
    assert len(source.splits["train"]) == 36


@pytest.mark.parametrize("problem", ["missing", "no image", "mixed", "extra class", "odd folder"])
def test_folders_that_cannot_be_meant(folder: Path, problem: str) -> None:
    if problem == "missing":
        folder = folder / "nowhere"
    elif problem == "no image":
        folder = folder / "zebra" / "none"
        folder.mkdir()
    elif problem == "mixed":
        picture(folder / "loose.png", 1)
    elif problem == "odd folder":
        folder = folder.rename(folder.parent / "train").parent
        picture(folder / "test" / "zebra" / "x.png", 1)
        picture(folder / "unlabeled" / "x.png", 1)
    else:
        folder = folder.rename(folder.parent / "train").parent
        picture(folder / "test" / "unicorn" / "x.png", 1)
        picture(folder / "test" / "centaur" / "x.png", 1)
    with pytest.raises(DataError) as caught:
        ImageFolder(folder)
    culprit = {
        "extra class": "2 classes ('centaur', 'unicorn') of which there are no training images",
        "mixed": "1 image beside 2 folders",
        "odd folder": "unlabeled",
    }
    assert culprit.get(problem, str(folder)) in str(caught.value)


def test_a_class_folder_without_an_image_is_no_class(folder: Path) -> None:
    (folder / "void").mkdir()
    (folder / "dust" / "deep").mkdir(parents=True)
    (folder / "dust" / "notes.txt").write_text("no image")
    source = ImageFolder(folder)
    assert source.classes == ("apfel grün", "zebra")
    assert source.unlisted.empty == ("dust", "void")


def test_exact_splits_are_stratified_disjoint_and_fixed_by_the_seed() -> None:
    source = DigitsOptions().open()
    options = SplitOptions(method="exact", seed=3, validation=0.1, test=0.2)
    splits = cut(source, options)
    names = {split: {item.name for item in items} for split, items in splits.items()}
    assert sum(map(len, names.values())) == len(set().union(*names.values())) == 1797
    assert abs(len(names["test"]) - 0.2 * 1797) < 6
    assert abs(len(names["validation"]) - 0.1 * 1797) < 6
    counts = np.array(list(Counter(item.label for item in splits["test"]).values()))
    assert len(counts) == 10
    assert counts.min() > 30
    assert counts.max() < 40
    assert cut(source, options) == splits
    other = SplitOptions(method="exact", seed=4, validation=0.1, test=0.2)
    assert cut(source, other) != splits


def test_a_share_that_leaves_nothing_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"raise dataset\.split\.validation"):
        cut(ImageFolder(folder), SplitOptions(validation=0.01))


@pytest.mark.parametrize("method", ["hash", "exact"])
def test_a_split_that_the_source_brings_is_taken_as_it_is(tmp_path: Path, method: str) -> None:
    for number in range(40):
        picture(tmp_path / "train" / "a" / f"{number}.png", number)
    picture(tmp_path / "test" / "a" / "x.png", 100)
    options = SplitOptions.model_validate({"method": method, "validation": 0.2, "test": 0.2})
    splits = cut(ImageFolder(tmp_path), options)
    assert [item.name for item in splits["test"]] == ["test/a/x.png"]
    assert 2 <= len(splits["validation"]) <= 16
    assert len(splits["train"]) + len(splits["validation"]) == 40


def test_the_listing_digest_sees_every_change(folder: Path) -> None:
    before = ImageFolder(folder).listing_digest()
    assert ImageFolder(folder).listing_digest() == before
    picture(folder / "zebra" / "0.png", 999, size=(11, 7))
    changed = ImageFolder(folder).listing_digest()
    (folder / "zebra" / "1.png").unlink()
    removed = ImageFolder(folder).listing_digest()
    assert len({before, changed, removed}) == 3


def test_samples_jsonl_that_disagrees_is_an_error(folder: Path, tmp_path: Path) -> None:
    manifest = write(folder, tmp_path / "train")
    path = tmp_path / "train" / "samples.jsonl"
    lines = path.read_text().splitlines()
    assert json.loads(lines[0])["key"] == "000000_000000"
    path.write_text("\n".join(lines[:-1]))
    with pytest.raises(DataError, match="lists 23 samples"):
        read_labels(tmp_path / "train", manifest)


class Street(Source):
    """Grey images that may have several classes each; one of them is unlabelled."""

    classes = ("bus", "car", "dog")
    labels = (MultiLabel((0, 2)), MultiLabel((), ignored=(1,)), None, MultiLabel((1,), (2,)))

    def __init__(self) -> None:
        self.splits = {"train": [Item(str(i), label) for i, label in enumerate(self.labels)]}

    def read(self, item: Item) -> Encoded:
        """Return one image."""
        buffer = io.BytesIO()
        Image.new("L", (8, 8), int(item.name)).save(buffer, format="png")
        return Encoded(buffer.getvalue(), "png")


def write_street(out: Path, items: Sequence[Item], *, classes: tuple[str, ...] | None) -> Manifest:
    source = Street()
    source.classes = classes  # type: ignore[assignment]
    return write_split(
        source,
        items,
        out,
        dataset="street",
        split="train",
        options=ShardOptions(samples=3),
        provenance={},
        progress=Silent(),
    )


def test_lists_of_classes_come_back_from_tars_and_listing(tmp_path: Path) -> None:
    items = Street().splits["train"]
    manifest = write_street(tmp_path / "train", items, classes=Street.classes)
    assert manifest.multi_label
    assert manifest.labelled == 3
    assert read_manifest(tmp_path / "train") == manifest
    assert tuple(read_labels(tmp_path / "train", manifest)) == Street.labels
    records = [r for n in range(2) for r in read_shard(tmp_path / "train", manifest, n)]
    assert tuple(record.label for record in records) == Street.labels
    with tarfile.open(tmp_path / "train" / "000000.tar") as tar:
        member = tar.extractfile("000000_000001.json")
        assert member is not None
        assert json.load(member) == {"present": [], "ignored": [1]}
        assert "000000_000002.json" not in tar.getnames()


@pytest.mark.parametrize("mode", ["resident", "streaming"])
def test_batches_say_present_absent_and_ignored(tmp_path: Path, mode: str) -> None:
    manifest = write_street(tmp_path / "train", Street().splits["train"], classes=Street.classes)
    image = ImageOptions(size=8, channels=1, mean=(0.0,), std=(1.0,))
    options = LoadingOptions.model_validate({"mode": mode, "workers": 0})
    data = SplitData(tmp_path / "train", manifest, {}, image)
    (batch,) = training_loader(data, options, batch_size=4, seed=0)
    assert batch["labels"].dtype == torch.int8
    rows = dict(zip(batch["index"].tolist(), batch["labels"].tolist(), strict=True))
    assert rows == {0: [1, 0, 1], 1: [0, -1, 0], 2: [-1, -1, -1], 3: [0, 1, -1]}


def test_one_class_and_several_do_not_mix(tmp_path: Path) -> None:
    items = [Item("0", 1), Item("1", MultiLabel((0, 1)))]
    with pytest.raises(DataError, match="use one form"):
        write_street(tmp_path / "a", items, classes=Street.classes)
    with pytest.raises(DataError, match="names of all classes"):
        write_street(tmp_path / "b", items[1:], classes=None)
