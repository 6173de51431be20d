"""Features that are also stored of views: each row is that of its view, and none is lost."""

from pathlib import Path

import numpy as np
import pytest
import torch
from growing import IMAGE, Collection
from PIL import Image

from pipeline.base.errors import StaleFeatureError
from pipeline.features.encoding import Array
from pipeline.features.extraction.cluster import ClusterOptions
from pipeline.features.extraction.fingerprint import check_features, fingerprint_of
from pipeline.features.extraction.recompute import repair
from pipeline.features.store import StoredFeature
from pipeline.features.store.feature import view_part
from pipeline.images.decoding import opened
from pipeline.images.stored_views import StoredViewOptions, stored_view
from pipeline.planning.stored_rows import stored_rows
from pipeline.representations.dct import DctOptions
from pipeline.representations.hog import HogOptions
from pipeline.representations.representation import RepresentationOptions
from pipeline.shards.listing import read_samples
from pipeline.shards.manifest import read_manifest
from pipeline.shards.reading import read_shard

THREE = StoredViewOptions(count=3)
HOG = HogOptions(cell=4, dtype="float32", views=THREE)


@pytest.fixture
def photos(tmp_path: Path) -> Collection:
    found = Collection(tmp_path)
    found.add(*range(60))
    found.pack()
    return found


def by_hand(photos: Collection, options: RepresentationOptions, number: int) -> Array:
    """Return the vectors of one stored view of every training image, in order."""
    network, views = options.build(IMAGE), options.views
    assert views is not None
    directory = photos.shards / "train"
    manifest, rows = read_manifest(directory), []
    for shard in range(len(manifest.shards)):
        for record in read_shard(directory, manifest, shard):
            file = opened(record.data)
            view = stored_view(views, file, number)
            part = np.asarray(file.decoded())[view.top :, view.left :][: view.height, : view.width]
            shown = Image.fromarray(part[:, ::-1] if view.flipped else part)
            pixels = np.array(shown.resize((8, 8), Image.Resampling.BICUBIC))
            image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
            rows.append(network(network.preparation.finish(image)))
    return torch.cat(rows).numpy()


def views_of(feature: StoredFeature, count: int = 3) -> list[Array]:
    return [feature.read(view_part(number)) for number in range(count)]


def test_each_row_is_the_vector_of_its_view(photos: Collection) -> None:
    stored = photos.extract_as("hog", HOG)
    assert stored.views == THREE
    assert stored.splits == {s: m.samples for s, m in photos.manifests().items()}
    for number, found in enumerate(views_of(stored)):
        expected = by_hand(photos, HOG, number)
        cosines = np.einsum("id,jd->ij", _unit(found), _unit(expected))
        assert (
            np.diag(cosines).min() > 0.995
        )  # of 8 pixels; Pillow's kernel has fixed point numbers
        assert (cosines.argmax(axis=1) == np.arange(len(found))).all()
        other = _unit(by_hand(photos, HOG, (number + 1) % 3))
        assert (np.diag(cosines) > np.einsum("id,id->i", _unit(found), other)).mean() > 0.95


def _unit(rows: Array) -> Array:
    found: Array = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return found


def test_views_share_the_reduction_of_the_feature(photos: Collection) -> None:
    reduced = DctOptions.model_validate(
        {"reduce": {"pca": 5}, "dtype": "float32", "views": {"count": 2}}
    )
    plain = photos.extract_as("plain", reduced.model_copy(update={"views": None}))
    stored = photos.extract_as("dct", reduced)
    np.testing.assert_allclose(stored.read("train"), plain.read("train"), atol=1e-5)
    assert [rows.shape for rows in views_of(stored, 2)] == [stored.read("train").shape] * 2


def test_nothing_is_computed_twice(photos: Collection) -> None:
    """Original views, and views that are stored already, are taken over."""
    train = photos.manifests()["train"].samples
    assert photos.extract() == 60
    photos.extract(views={"count": 2})
    assert photos.passes == 2 * train
    before = views_of(photos.store["counted"], 2)
    photos.extract(views={"count": 5})
    assert photos.passes == 3 * train
    after = views_of(photos.store["counted"], 5)
    assert all(np.array_equal(*pair) for pair in zip(before, after, strict=False))
    photos.extract(views={"count": 2})  # fewer: nothing to compute, and nothing is lost
    assert photos.passes == 0
    photos.extract(views={"count": 5})
    assert photos.passes == 0
    assert all(map(np.array_equal, after, views_of(photos.store["counted"], 5)))
    photos.extract(views={"count": 1, "flip_p": 0.0})
    assert photos.passes == train
    photos.extract(views={"count": 5})
    assert photos.passes == 0


def test_a_plan_counts_the_views_that_are_stored(photos: Collection) -> None:
    named = {
        split: [row.identity for row in read_samples(photos.shards / split, manifest)]
        for split, manifest in photos.manifests().items()
    }
    every, train = [one for own in named.values() for one in own], named["train"]

    def stored(options: RepresentationOptions) -> int:
        return stored_rows(options, IMAGE, every, train, [photos.store])

    assert stored(HOG) == 0
    photos.extract_as("hog", HOG.model_copy(update={"views": None}))
    assert stored(HOG) == 60
    photos.extract_as("hog", HOG)
    more = HOG.model_copy(update={"views": StoredViewOptions(count=5)})
    assert stored(HOG) == stored(more) == 60 + 3 * len(train)


def test_new_images_alone_are_computed_and_rows_stay_with_their_images(photos: Collection) -> None:
    photos.extract(views={"count": 2})
    photos.add(*range(60, 75))
    (photos.folder / "a/0002.png").unlink()
    plan = photos.pack()
    assert plan is not None
    photos.extract(views={"count": 2})
    new = [n for n in photos.splits() if int(Path(n).stem) >= 60]
    training = [name for name in new if photos.splits()[name] == "train"]
    assert photos.passes == len(new) + 2 * len(training)
    grown = views_of(photos.store["counted"], 2)
    photos.extract(views={"count": 2}, force=True)
    assert photos.passes > 100
    whole = views_of(photos.store["counted"], 2)
    there = np.array([row for row in range(len(whole[0])) if whole[0][row].any()])
    for found, expected in zip(grown, whole, strict=True):
        np.testing.assert_allclose(found[there], expected[there], atol=2e-3)


def test_a_damaged_chunk_of_a_view_is_found_and_computed_again(photos: Collection) -> None:
    stored = photos.extract_as("hog", HOG)
    before = views_of(stored)
    chunk = next(path for path in (stored.path / "view-1" / "c").rglob("*") if path.is_file())
    chunk.write_bytes(chunk.read_bytes()[:-3] + b"???")
    damages = photos.store.verify()
    assert {damage.part for damage in damages["hog"]} == {"view-1"}
    repair(
        damages,
        features={},
        image=IMAGE,
        shards=photos.shards,
        store=photos.store,
        work=photos.work,
        options=ClusterOptions(workers=1),
        progress=photos.told,
    )
    assert not any(photos.store.verify().values())
    again = views_of(photos.store["hog"])
    assert all(np.allclose(*pair, atol=1e-6) for pair in zip(before, again, strict=True))


def test_a_store_with_other_views_is_stale_and_says_so(photos: Collection) -> None:
    photos.extract_as("hog", HOG)
    wanted = HOG.model_copy(update={"views": StoredViewOptions(count=4)})
    with pytest.raises(StaleFeatureError, match=r"other views: views.count is now 4, was 3"):
        check_features(
            {"hog": wanted},
            image=IMAGE,
            shards=photos.shards,
            store=photos.store,
            progress=photos.told,
        )


def test_a_fingerprint_without_views_is_what_it_was() -> None:
    plain = fingerprint_of(HogOptions(cell=4), {"kind": "hog"}, {})
    assert sorted(plain) == ["dtype", "format", "reduce", "representation", "shards"]
