"""Large images are stored reduced; everything that follows sees what is stored."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from growing import Collection
from PIL import Image

from pipeline.datasets.identity import identity_of
from pipeline.datasets.image_folder import ImageFolder
from pipeline.images.decoding import decode
from pipeline.images.original_view import ImageOptions
from pipeline.images.reducing import ReductionOptions, reduced
from pipeline.models.ready_encoder import Preprocessing
from pipeline.shards.listing import read_contents, read_identities, read_samples
from pipeline.shards.reading import Record, read_shard
from pipeline.shards.repair import repair_split, split_damage
from pipeline.shards.writing import ShardOptions

MAX_SIDE = 64
REDUCTION = ReductionOptions(max_side=MAX_SIDE, quality=90)


class Photographs(Collection):
    """Pictures of which every third is larger than what is stored."""

    def save(self, name: str, number: int) -> None:
        """Save the picture of a number under a name."""
        path = (self.folder / name).with_suffix(".jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photograph(number))


def photograph(number: int) -> bytes:
    """Return a smooth picture of 120 x 80 pixels, or of 60 x 40."""
    coarse = np.random.default_rng(number).integers(1, 256, (4, 6, 3), dtype=np.uint8)
    size = (120, 80) if number % 3 == 0 else (60, 40)
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6 if number % 2 else 1  # turned by a quarter, or not
    picture = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    picture.save(file, "JPEG", quality=95, exif=exif)
    return file.getvalue()


@pytest.fixture
def photos(tmp_path: Path) -> Photographs:
    collection = Photographs(tmp_path)
    collection.options = ShardOptions(samples=16, max_side=MAX_SIDE, quality=90)
    collection.add(*range(60))
    collection.pack()
    return collection


def records(photos: Collection) -> dict[str, Record]:
    """Return what is stored of each image, by its name."""
    found = {}
    for split, manifest in photos.manifests().items():
        directory = photos.shards / split
        samples = iter(read_samples(directory, manifest))
        for number in range(len(manifest.shards)):
            for record in read_shard(directory, manifest, number):
                found[next(samples).name] = record
    return found


def test_what_is_larger_is_stored_upright_at_the_size_and_the_rest_byte_for_byte(
    photos: Photographs,
) -> None:
    stored = records(photos)
    assert len(stored) == 60
    for name, record in stored.items():
        content = (photos.folder / name).read_bytes()
        whole = decode(content)
        if max(whole.size) <= MAX_SIDE:
            assert record.data == content
            continue
        found = decode(record.data)
        scale = MAX_SIDE / max(whole.size)
        assert found.size == tuple(round(scale * side) for side in whole.size)
        expected = whole.resize(found.size, Image.Resampling.LANCZOS)
        file = io.BytesIO()
        expected.save(file, "JPEG", quality=90)
        assert np.array_equal(np.asarray(found), np.asarray(Image.open(file)))
    manifests = photos.manifests().values()
    assert sum(manifest.reduced for manifest in manifests) == 20
    sources = sum(len(photograph(number)) for number in range(0, 60, 3))
    kept = sum(len(r.data) for n, r in stored.items() if int(Path(n).stem) % 3 == 0)
    assert sum(manifest.saved for manifest in manifests) == sources - kept


def test_both_digests_stand_in_the_listing(photos: Photographs) -> None:
    stored = records(photos)
    for split, manifest in photos.manifests().items():
        directory = photos.shards / split
        samples = read_samples(directory, manifest)
        identities, contents = (f(directory, manifest) for f in (read_identities, read_contents))
        for sample, identity, content in zip(samples, identities, contents, strict=True):
            source = identity_of((photos.folder / sample.name).read_bytes())
            assert sample.identity == source
            assert identity.tobytes().hex() == source[:32]
            own = identity_of(stored[sample.name].data)
            assert content.tobytes().hex() == own[:32]
            assert (sample.smaller.stored if sample.smaller else source) == own


def test_a_collection_that_grows_keeps_what_is_stored(photos: Photographs) -> None:
    before = records(photos)
    photos.add(*range(60, 75))
    plan = photos.pack()
    assert not plan.anew
    after = records(photos)
    assert len(after) == 75
    assert all(after[name].data == record.data for name, record in before.items())
    assert sum(manifest.reduced for manifest in photos.manifests().values()) == 25
    assert photos.is_current()


def test_features_belong_to_what_is_stored(photos: Photographs) -> None:
    assert photos.extract() == 60
    feature = photos.store["counted"]
    contents = read_contents(photos.shards / "train", photos.manifests()["train"])
    known = feature.identities("train")
    assert known is not None
    assert np.array_equal(known, contents)
    photos.options = ShardOptions(samples=16, max_side=MAX_SIDE, quality=50)
    assert photos.pack().anew
    assert photos.extract() == 20  # those of which something else is stored now
    photos.options = ShardOptions(samples=7, max_side=MAX_SIDE, quality=50)
    photos.pack()
    assert photos.extract() == 0
    photos.options = ShardOptions(samples=7)
    assert photos.pack().anew
    assert sum(manifest.reduced for manifest in photos.manifests().values()) == 0


def test_a_plan_knows_what_is_stored_of_images_that_are_packed(photos: Photographs) -> None:
    photos.add(*range(60, 63))
    plan = photos.pack()  # made before the three are packed
    stored = records(photos)
    new = {name for name in stored if int(Path(name).stem) >= 60}
    for name, content in plan.contents.items():
        known = plan.identities[name] if name in new else identity_of(stored[name].data)
        assert content == known
    photos.options = ShardOptions(samples=16, max_side=MAX_SIDE, quality=50)
    assert photos.pack().contents == plan.identities  # what will be stored is not known


def test_tars_and_listing_are_repaired_to_the_same_bytes(photos: Photographs) -> None:
    directory, manifest = photos.shards / "train", photos.manifests()["train"]
    source = ImageFolder(photos.folder)
    for damage in (
        lambda: (directory / "000000.tar").write_bytes(b""),
        lambda: (directory / "samples.jsonl").unlink(),
    ):
        damage()
        damaged = split_damage(directory, manifest)
        assert len(damaged) == 1
        repair_split(source, directory, manifest, damaged, photos.options)
        assert split_damage(directory, manifest) == []


def test_a_file_is_embedded_as_the_training_saw_it() -> None:
    image = ImageOptions(size=40, mean=(0.5,) * 3, std=(0.5,) * 3)
    prepare = Preprocessing(image, REDUCTION)
    large = photograph(3)
    smaller = reduced(large, REDUCTION)
    assert smaller is not None
    assert torch.equal(prepare(large), Preprocessing(image)(smaller))
    assert not torch.equal(prepare(large), Preprocessing(image)(large))
    assert torch.equal(prepare(photograph(1)), Preprocessing(image)(photograph(1)))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((400, 100), (64, 16)),  # four times as long as wide: the longer side decides
        ((1000, 100), (160, 16)),
        ((100, 1000), (16, 160)),
        ((1000, 12), None),  # as narrow as that already
        ((3000, 40), (1200, 16)),
    ],
)
def test_panoramas_keep_a_quarter_of_the_side(
    size: tuple[int, int], expected: tuple[int, int] | None
) -> None:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "PNG")
    smaller = reduced(file.getvalue(), REDUCTION)
    assert (decode(smaller).size if smaller else None) == expected


def test_a_file_that_would_not_become_smaller_is_stored_as_it_is() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (100, 150, 3), dtype=np.uint8)
    small, large = io.BytesIO(), io.BytesIO()
    Image.fromarray(noise).save(small, "JPEG", quality=5)
    Image.fromarray(noise).save(large, "JPEG", quality=95)
    assert reduced(small.getvalue(), ReductionOptions(max_side=140, quality=95)) is None
    assert reduced(large.getvalue(), ReductionOptions(max_side=140, quality=95)) is not None
