"""Running an extraction: finding what is missing, having it computed, and publishing it."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from pipeline.base.digests import digest
from pipeline.base.errors import ConfigError, MvmrError, StoreError
from pipeline.base.locations import Location, is_local, names_in
from pipeline.base.locks import exclusive
from pipeline.base.progress import Progress
from pipeline.base.trial_vectors import trial_vectors
from pipeline.datasets.source import Split
from pipeline.features.encoding import Encoding
from pipeline.features.extraction.cluster import Cluster, ClusterOptions, cluster
from pipeline.features.extraction.fingerprint import fingerprint_of, require_same_vectors
from pipeline.features.extraction.kept import kept_losses
from pipeline.features.extraction.likeness import likeness_of
from pipeline.features.extraction.prepare import (
    Sampling,
    check_basis,
    lay_out,
    prepare,
    report_fidelity,
    rows_to_measure,
    write_fitted,
)
from pipeline.features.extraction.sink import MEASURED_BATCH
from pipeline.features.extraction.takeover import (
    Mask,
    Taken,
    adopt_reduction,
    donors_of,
    of_one_basis,
    take_over,
)
from pipeline.features.extraction.task import FeatureTask, Span, Task
from pipeline.features.extraction.worker import extract_shard
from pipeline.features.store import (
    FeatureStore,
    Fingerprint,
    StoredFeature,
    differing,
    recipe_of,
)
from pipeline.features.store.feature import TRIAL, without_basis
from pipeline.features.store.identities import Identities, places_of, write_identities
from pipeline.features.store.writer import DONE, LOCK
from pipeline.images.original_view import ImageOptions
from pipeline.representations.representation import RepresentationOptions, identity_of
from pipeline.representations.row_check import checked_vectors
from pipeline.shards.listing import read_contents
from pipeline.shards.manifest import Manifest, read_manifests

# A shard with fewer new rows than this tells nothing about the fidelity of a reduction.
FEWEST_WITNESSED = 16


def extract(
    features: Mapping[str, RepresentationOptions],
    *,
    image: ImageOptions,
    shards: Location,
    store: FeatureStore,
    work: Location,
    options: ClusterOptions,
    progress: Progress,
    others: Sequence[FeatureStore] = (),
    beside: Mapping[str, RepresentationOptions] | None = None,
    force: bool = False,
) -> dict[str, StoredFeature]:
    """Compute and publish what the store lacks of the features, and return all requested ones.

    A complete feature with the same fingerprint is left alone. Of others, the rows of images are
    taken over that `store` or one of `others` holds, made alike, and only the rest is computed;
    with `force`, all is computed. A feature that is replaced, and holds other rows, is kept as
    superseded. Unfinished work below `work` is continued.

    If images have to be decoded, features `beside` these that the store lacks are computed too, but
    not published: another call, which asks for them, finds them finished below `work`.
    """
    shards, work, path = shards.absolute(), work.absolute(), store.path.absolute()
    store = FeatureStore(path)
    manifests = read_manifests(shards)
    tasks = []
    with exclusive(work / LOCK, busy(store)):
        progress.start("build representations", 0, "")
        for name, wanted in features.items():
            task = feature_task(name, wanted, image, manifests, path, work)
            if force or not _is_stored(store, task, progress):
                tasks.append(task)
        if tasks:
            stores = () if force else (store, *others)
            complete(
                tasks,
                manifests,
                image,
                shards,
                options,
                progress,
                stores=stores,
                beside=lambda: _beside(beside or {}, image, manifests, store, work, progress),
            )
    return {name: store[name] for name in features}


def _is_stored(store: FeatureStore, task: FeatureTask, progress: Progress) -> bool:
    """Whether the store holds a feature as it is wanted, perhaps among the superseded ones."""
    if task.name in store:
        found = store[task.name]
        if found.recipe == recipe_of(task.fingerprint):
            require_same_vectors(found, task.options, task.trial)
        if without_basis(found.fingerprint) == task.fingerprint:
            return True
        if found.recipe != recipe_of(task.fingerprint):
            differences = "; ".join(differing(recipe_of(task.fingerprint), found.recipe))
            progress.note(
                f"{task.name} is stored, but was made otherwise: {differences}. What is stored "
                "is kept as superseded; `mvmr store clean` lists it."
            )
    restored = is_local(store.path) and store.restore(task.name, task.fingerprint)
    if restored:
        progress.note(f"{task.name} was superseded, and is in use again; nothing is computed.")
    return bool(restored)


def _beside(
    features: Mapping[str, RepresentationOptions],
    image: ImageOptions,
    manifests: Mapping[Split, Manifest],
    store: FeatureStore,
    work: Location,
    progress: Progress,
) -> Iterator[FeatureTask]:
    """Yield the tasks of features that the store holds nowhere, without those that cannot be made.

    Nobody asked for these, so whoever does is told what is wrong with them.
    """
    for name, options in features.items():
        try:
            task = feature_task(name, options, image, manifests, store.path, work)
        except MvmrError as error:
            progress.note(_left_out(name, error))
            continue
        if not any(without_basis(found.fingerprint) == task.fingerprint for found in store.every()):
            yield task


def _left_out(name: str, error: MvmrError) -> str:
    return f"{name} is not computed along with what is asked for: {error}"


def unfinished(work: Location) -> list[tuple[str, str, int]]:
    """Return name, fingerprint digest and number of finished shards of unfinished features."""
    found = []
    for directory in sorted(names_in(work) - {LOCK}):
        name, _, fingerprint = directory.rpartition("-")
        found.append((name, fingerprint, len(names_in(work / directory / DONE))))
    return found


def feature_digest(
    options: RepresentationOptions, image: ImageOptions, manifests: Mapping[Split, Manifest]
) -> str:
    """Return the fingerprint digest of a feature, as `unfinished` returns it.

    Raises WeightsError if the weights of a teacher are missing.
    """
    return _short(fingerprint_of(options, identity_of(options.build(image)), manifests))


def _short(fingerprint: Fingerprint) -> str:
    return digest(fingerprint)[:16]


def busy(store: FeatureStore) -> StoreError:
    """Return the error for a store that another process is writing to."""
    return StoreError(f"Another extraction is writing to {store.path}: wait until it has ended.")


def feature_task(
    name: str,
    options: RepresentationOptions,
    image: ImageOptions,
    manifests: Mapping[Split, Manifest],
    store: Location,
    work: Location,
) -> FeatureTask:
    """Return the task of computing one feature; its fingerprint names its work folder."""
    if not options.storable:
        raise ConfigError(
            f"features.{name}: {options.kind!r} is random, so it cannot be stored; "
            "name it in the objective instead, where it is computed for every batch."
        )
    representation = options.build(image)
    fingerprint = fingerprint_of(options, identity_of(representation), manifests)
    vectors = checked_vectors(representation, f"The representation {name!r}")
    width = vectors.shape[1]
    if options.reduce.pca is not None and options.reduce.pca > width:
        raise ConfigError(
            f"features.{name}.reduce.pca: {options.reduce.pca} components are more than the "
            f"{width} numbers per image. Set it below {width}, or leave `reduce` out."
        )
    directory = work / f"{name}-{_short(fingerprint)}"
    trial = trial_vectors(vectors)
    return FeatureTask(name, options, width, store, directory, fingerprint, trial)


def complete(
    features: Sequence[FeatureTask],
    manifests: Mapping[Split, Manifest],
    image: ImageOptions,
    shards: Location,
    options: ClusterOptions,
    progress: Progress,
    *,
    stores: Sequence[FeatureStore] = (),
    beside: Callable[[], Iterable[FeatureTask]] = tuple,
) -> None:
    """Do the remaining work on unfinished features, and publish them.

    Rows that one of `stores` holds are taken over. If any are to be computed, the features that
    `beside` returns are computed too, and not published.
    """
    contents = {s: read_contents(shards / s, manifest) for s, manifest in manifests.items()}
    begun = partial(
        _begun, stores=stores, manifests=manifests, contents=contents, progress=progress
    )
    taken = {feature.name: begun(feature) for feature in features}
    if any(_remaining(feature, manifests) for feature in features):
        also = list(beside())
        taken |= {feature.name: begun(feature) for feature in also}
        _compute(features, also, taken, manifests, image, shards, options, progress)
    progress.start("publish", 0, "")
    for feature in features:
        writer = feature.writer()
        identities = feature.identities(contents)
        for part, manifest in feature.parts(manifests).items():
            known = _of_stored_rows(feature, part, manifest, identities[part])
            write_identities(writer.home, part, known)
        report = {**_recipe(feature, image), **writer.reduction()[1]["report"]}
        if (exact := feature.options.exact) is not None:
            train = manifests["train"]
            found = likeness_of(feature.options, exact, image, shards / "train", train)
            report["preparation"] = found
            progress.note(
                f"{feature.name}: on {found['images']} images, the cosine of fast to exact "
                f"preparation is {found['cosine']:.4f} on average, {found['least']:.4f} at least."
            )
        writer.publish(report)


def _begun(
    feature: FeatureTask,
    stores: Sequence[FeatureStore],
    manifests: Mapping[Split, Manifest],
    contents: Mapping[Split, Identities],
    progress: Progress,
) -> dict[str, Taken]:
    """Continue or begin a feature, and take over the rows that are stored already, by array."""
    writer = feature.writer()
    donors = donors_of(feature, stores)
    if donors and not is_local(writer.target) and writer.target.exists():
        writer.set_aside()  # written in place, which would destroy what is to be taken over
        donors = donors_of(feature, stores)
    writer.begin()
    donors = of_one_basis(feature, donors)
    identities = feature.identities(contents)
    if not writer.has_reduction() and not _worth_it(feature, donors, identities):
        return {}
    if donors and not writer.has_reduction():
        adopt_reduction(feature, donors[0])
    if not donors:
        return {}
    lay_out(feature, manifests)
    parts = feature.parts(manifests)
    taken = take_over(feature, donors, parts, identities, progress)
    every = sum(manifest.valid for manifest in parts.values())
    left = sum(part.left for part in taken.values())
    if left < every:
        progress.note(
            f"{feature.name}: {every - left:,} of {every:,} rows taken over, {left:,} to compute."
        )
    return taken


def _worth_it(
    feature: FeatureTask,
    donors: Sequence[StoredFeature],
    identities: Mapping[str, Identities],
) -> bool:
    """Whether rows are taken over from donors, and with them what they were fitted to.

    What another data set was fitted to is taken only with the rows of half of the images.
    """
    found = [places_of(rows, donors).found for rows in identities.values()]
    known, every = sum(int(f.sum()) for f in found), sum(len(f) for f in found)
    own = {feature.store, FeatureStore(feature.store).superseded}
    if not feature.is_fitted or any(donor.path.parent in own for donor in donors):
        return known > 0
    return 2 * known >= every


def _remaining(feature: FeatureTask, manifests: Mapping[Split, Manifest]) -> bool:
    writer = feature.writer()
    done = writer.done()
    return not writer.has_report() or any(
        (part, number) not in done
        for part, manifest in feature.parts(manifests).items()
        for number in range(len(manifest.shards))
    )


def _compute(
    features: Sequence[FeatureTask],
    beside: Sequence[FeatureTask],
    taken: Mapping[str, Mapping[str, Taken]],
    manifests: Mapping[Split, Manifest],
    image: ImageOptions,
    shards: Location,
    options: ClusterOptions,
    progress: Progress,
) -> None:
    """Compute all rows that are neither stored nor taken over.

    Features `beside` those that are asked for are left out if they cannot be prepared.
    """
    total = sum(len(manifest.shards) for manifest in manifests.values())
    progress.start("start workers", 0, "")
    with cluster(options, shards=total, progress=progress) as running:
        ready = list[FeatureTask]()
        for feature in (*features, *beside):
            try:
                if not feature.writer().has_reduction():
                    prepare(Sampling(feature, image, shards, manifests["train"], running, progress))
                lay_out(feature, manifests)
            except MvmrError as error:
                if feature not in beside:
                    raise
                progress.note(_left_out(feature.name, error))
            else:
                ready.append(feature)
        todo = [_Todo.of(feature, taken[feature.name], manifests) for feature in ready]
        pending = [*_pending(todo, manifests, image, shards, running)]
        names = ", ".join(feature.name for feature in ready)
        count = sum(task.images for task in pending)
        progress.start(f"extract {names}", count, "images", step="extract")
        running.run(extract_shard, pending, progress)
        progress.start("stop workers", 0, "")
    for feature in ready:
        if not feature.writer().has_report():
            report_fidelity(feature, manifests["train"])
        elif taken[feature.name]:
            found = [loss for losses in kept_losses(feature.work).values() for loss in losses]
            check_basis(feature, found, manifests["train"], progress)


@dataclass(frozen=True)
class _Todo:
    """What is to be done for one feature.

    `kept` are the rows (samples,) of each array that are written, or will be copied; `done` are the
    shards that are finished; `measured` are the rows of shards on which fidelity is to be measured.
    """

    feature: FeatureTask
    kept: Mapping[str, Mask]
    done: frozenset[tuple[str, int]]
    measured: Mapping[tuple[str, int], frozenset[int]]

    @classmethod
    def of(
        cls,
        feature: FeatureTask,
        taken: Mapping[str, Taken],
        manifests: Mapping[Split, Manifest],
    ) -> "_Todo":
        """Find out what is to be done, after writing what is known already."""
        kept = {
            part: taken[part].kept.copy() if part in taken else np.zeros(manifest.samples, bool)
            for part, manifest in feature.parts(manifests).items()
        }
        train = manifests["train"]
        kept["train"] |= write_fitted(feature, train)
        writer = feature.writer()
        done = writer.done()
        measured = dict[tuple[str, int], frozenset[int]]()
        if not writer.has_report():
            measured = {("train", n): rows for n, rows in rows_to_measure(feature, train).items()}
        elif feature.is_fitted and taken:
            measured = {("train", n): rows for n, rows in _new_rows(train, kept["train"], done)}
        known = kept_losses(feature.work)
        left = {place: rows for place, rows in measured.items() if place not in known}
        return cls(feature, kept, done, left)

    def parts_of(self, split: Split, number: int) -> list[str]:
        """Return the arrays in which a shard of a split has something to be done."""
        return [
            part
            for part in self.feature.parts_of(split)
            if (part, number) not in self.done or (part, number) in self.measured
        ]

    def kept_of(self, part: str, number: int, rows: range) -> frozenset[int]:
        """Return which of a shard's rows are kept."""
        if (part, number) in self.done:
            return frozenset(rows)
        kept = np.flatnonzero(self.kept[part][rows.start : rows.stop])
        return frozenset(rows.start + int(row) for row in kept)


def _new_rows(
    manifest: Manifest, kept: Mask, done: frozenset[tuple[str, int]]
) -> Iterator[tuple[int, frozenset[int]]]:
    """Yield shards with enough new rows to measure the fidelity of a reduction, and these rows."""
    new = ~kept
    new[sorted(manifest.invalid)] = False
    for number, shard in enumerate(manifest.shards):
        first = manifest.first_index(number)
        rows = np.flatnonzero(new[first : first + shard.samples])[:MEASURED_BATCH]
        if len(rows) >= FEWEST_WITNESSED and ("train", number) not in done:
            yield number, frozenset(first + int(row) for row in rows)


def _pending(
    todo: Sequence[_Todo],
    manifests: Mapping[Split, Manifest],
    image: ImageOptions,
    shards: Location,
    running: Cluster,
) -> Iterator[Task]:
    """Yield a task for each shard with something to be done, with the rows to compute."""
    for split, manifest in manifests.items():
        for number, shard in enumerate(manifest.shards):
            lacking = {one.feature: parts for one in todo if (parts := one.parts_of(split, number))}
            if not lacking:
                continue
            first = manifest.first_index(number)
            every = range(first, first + shard.samples)
            valid = frozenset(every) - {first + row for row in shard.invalid}
            kept = {
                (one.feature.name, part): one.kept_of(part, number, every)
                for one in todo
                for part in lacking.get(one.feature, ())
            }
            measured = {
                one.feature.name: one.measured[split, number]
                for one in todo
                if (split, number) in one.measured
            }
            only = (valid - frozenset.intersection(*kept.values())).union(*measured.values())
            yield Task(
                shards / split,
                (Span(number, 0, shard.samples),),
                image,
                tuple(lacking),
                running.workers_per_host,
                len(only),
                running.batch_size,
                parts={feature.name: parts for feature, parts in lacking.items()},
                only=only if len(only) < len(valid) else None,
                kept=kept,
                measured=measured,
            )


def _of_stored_rows(
    feature: FeatureTask, part: str, manifest: Manifest, identities: Identities
) -> Identities:
    """Return the identities of the rows that an array of a feature really holds.

    Of images that are gone, these are the rows that were taken over: any others are zeros.
    """
    gone = np.array(
        [
            manifest.first_index(number) + row
            for number, shard in enumerate(manifest.shards)
            for row in shard.gone
        ],
        np.int64,
    )
    if not len(gone):
        return identities
    writer = feature.writer()
    encoding = Encoding.load(feature.options.dtype, writer.reduction()[0])
    rows = writer.read_raw(part, gone)
    zero = encoding.encode(np.zeros((1, rows.shape[1]), np.float32))
    known = identities.copy()
    known[gone[(rows == zero).all(axis=1)]] = 0
    return known


def _recipe(feature: FeatureTask, image: ImageOptions) -> dict[str, Any]:
    """Return what is needed, besides the shards, to compute the feature again."""
    return {
        "options": feature.options.model_dump(mode="json"),
        "image": image.model_dump(mode="json"),
        TRIAL: feature.trial,
    }
