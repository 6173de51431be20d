"""Packing the images of a data set into shards, or bringing them up to date with their source."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from pipeline.base.errors import DataError
from pipeline.base.locks import exclusive
from pipeline.base.progress import Progress, not_kept
from pipeline.base.text import counted
from pipeline.base.timing import timed
from pipeline.datasets.source import Source, Split
from pipeline.datasets.split import SplitOptions, groups_told, shares_of
from pipeline.features.store import FeatureStore, differing
from pipeline.features.store.identities import add_identities
from pipeline.shards.listing import read_contents
from pipeline.shards.manifest import Manifest
from pipeline.shards.packing import (
    Changes,
    PackingPlan,
    is_current,
    pack,
    packed_manifests,
    plan_packing,
)
from stages.experiment.freshness import provenance
from stages.experiment.paths import DatasetLayout
from stages.experiment.schema import PackingOptions
from stages.experiment.time_records import shard_record

LOCK = "packing.lock"


@dataclass(frozen=True)
class PackedImages:
    """The packed splits, the source as it is listed now, and what has changed since before."""

    manifests: Mapping[Split, Manifest]
    source: Source
    changes: Changes
    up_to_date: bool


def pack_images(
    dataset: PackingOptions,
    layout: DatasetLayout,
    progress: Progress,
    *,
    force: bool = False,
    compact: bool = False,
    require_enough: Callable[[int], None] = lambda _: None,
) -> PackedImages:
    """Bring the shards of a data set up to date with its source, and create its feature store.

    `require_enough` gets the number of training images before anything is packed, and raises an
    error if they are too few.
    """
    progress.start("list images", 0, "")
    source = dataset.source.open_again(layout.listings)
    FeatureStore(layout.features).create()
    busy = DataError(f"Another `mvmr shard` is packing {layout.shards}: wait until it has ended.")
    with exclusive(layout.root / LOCK, busy):
        manifests = _readable(layout, force=force)
        made_with = provenance(dataset)
        if is_current(manifests, source, dataset.split, made_with) and not (force or compact):
            require_enough(manifests["train"].valid)
            return PackedImages(manifests, source, Changes(), up_to_date=True)
        plan = plan_packing(
            source,
            layout.shards,
            split=dataset.split,
            options=dataset.shards,
            provenance=made_with,
            compact=compact,
            force=force,
            progress=progress,
        )
        require_enough(len(plan.items["train"]))
        for line in (*_told(plan, manifests, made_with), *_shares(plan, source, dataset.split)):
            progress.note(line)
        _keep_identities(layout, manifests)
        packed = _packed(plan, source, dataset, layout, progress)
    return PackedImages(packed, source, plan.changes, up_to_date=False)


def _readable(layout: DatasetLayout, *, force: bool) -> dict[Split, Manifest]:
    """Return the manifests that are there; with `force`, damaged ones do not count."""
    try:
        return packed_manifests(layout.shards)
    except DataError:
        if not force:
            raise
        return {}


def _packed(
    plan: PackingPlan,
    source: Source,
    dataset: PackingOptions,
    layout: DatasetLayout,
    progress: Progress,
) -> dict[Split, Manifest]:
    made_with = provenance(dataset)
    record = shard_record(layout, made_with, source.listing_digest())
    starts_over = not_kept("packing", progress) if plan.anew else nullcontext()
    with timed([record], progress) as timing, starts_over:
        return pack(
            plan,
            source,
            layout.shards,
            work=layout.packing,
            dataset=dataset.name,
            options=dataset.shards,
            provenance=made_with,
            progress=timing,
        )


def _told(
    plan: PackingPlan, before: Mapping[Split, Manifest], made_with: Mapping[str, Any]
) -> Iterator[str]:
    """Say what has changed since the images were packed."""
    if not before:
        return
    if str(plan.changes):
        yield f"Since they were packed, images have changed: {plan.changes}."
    if plan.anew:
        why = "; ".join(differing(made_with, next(iter(before.values())).options))
        yield (
            f"All images are packed anew{f' ({why})' if why else ''}. Features are taken over for "
            "those of which they are stored."
        )
    moved = len(plan.changes.moved)
    if moved:
        yield (
            f"{counted(moved, 'images')} of one split are now in another, so that results on the "
            "new test images cannot be compared with earlier ones."
        )


def _shares(plan: PackingPlan, source: Source, options: SplitOptions) -> Iterator[str]:
    """Say what shares the cut splits got, and how far classes differ."""
    images = [item for items in plan.items.values() for item in items]
    beside = options.beside(source)
    for split in options.shares.keys() - beside.shares.keys():
        yield f"{split}: the source's own {counted(len(source.splits[split]), 'images')}."
    options = beside
    if told := groups_told(images, options):
        yield told
    for share in shares_of(plan.items, options):
        line = f"{share.split}: {share.images:,} images, {share.share:.1%} of those to be cut"
        if options.method == "hash":
            line += f" ({share.wanted:.1%} asked for, {share.deviation:.1%} standard deviation)"
        if share.least is not None and share.most is not None and plan.classes is not None:
            (low, lowest), (high, highest) = share.least, share.most
            line += (
                f"; by class from {lowest:.1%} ({plan.classes[low]}) to {highest:.1%} "
                f"({plan.classes[high]})"
            )
        yield f"{line}."
        if share.missing and plan.classes is not None:
            names = ", ".join(plan.classes[label] for label in share.missing[:3])
            yield (
                f"No {share.split} image of {counted(len(share.missing), 'classes')} ({names}): "
                f"raise dataset.split.{share.split}, or set dataset.split.method to exact."
            )
    if options.method == "exact" and options.shares:
        yield (
            "dataset.split.method is exact: the splits are drawn again from all images whenever "
            "one comes or goes. With hash, each image keeps its split."
        )


def _keep_identities(layout: DatasetLayout, manifests: Mapping[Split, Manifest]) -> None:
    """Record in features of earlier versions which image each row is of, while it is known."""
    older = {split: m for split, m in manifests.items() if m.format == 2}
    if older:
        add_identities(
            FeatureStore(layout.features),
            {m.digest: (s, read_contents(layout.shards / s, m)) for s, m in older.items()},
        )
