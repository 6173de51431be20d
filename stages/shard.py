"""`mvmr shard`: pack the images of the active data set into WebDataset tars."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from pipeline.base.atomic import write_json
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
from stages.experiment.chosen import Chosen
from stages.experiment.dvc_lock import changed_by_hand
from stages.experiment.freshness import listing_of, provenance
from stages.experiment.paths import DatasetLayout, dataset_layout
from stages.experiment.requirements import require_enough
from stages.experiment.schema import DatasetOptions
from stages.experiment.time_records import shard_record
from stages.terminal.announcement import announce, source_name
from stages.terminal.console import Screen
from stages.terminal.result import (
    Column,
    Result,
    count,
    left_out_lines,
    megabytes,
    others_lines,
    rows_table,
)

NAMED = 5
LOCK = "packing.lock"
COLUMNS = (
    Column("split", "split"),
    Column("images", "images", count),
    Column("labelled", "labelled", count),
    Column("invalid", "left out", count),
    Column("gone", "gone", count),
    Column("tars", "tars", count),
    Column("bytes", "MB", megabytes),
)


def shard(screen: Screen, *, chosen: Chosen, data: str, force: bool, compact: bool) -> Result:
    """Bring the shards of the experiment's data set up to date with its source."""
    experiment = chosen.experiment
    dataset, watched = experiment.dataset, screen.progress
    layout = dataset_layout(dataset.name, data)
    announce(
        screen, "shard", experiment, reads=[source_name(dataset.source)], writes=[layout.shards]
    )
    watched.start("list images", 0, "")
    source = dataset.source.open_again(layout.listings)
    FeatureStore(layout.features).create()
    busy = DataError(f"Another `mvmr shard` is packing {layout.shards}: wait until it has ended.")
    with exclusive(layout.root / LOCK, busy):
        manifests = _readable(layout, force=force)
        fresh = is_current(manifests, source, dataset.split, provenance(dataset))
        if fresh and not (force or compact):
            require_enough(experiment, manifests["train"].valid)
            changes = Changes()
        else:
            fresh = False
            plan = plan_packing(
                source,
                layout.shards,
                split=dataset.split,
                options=dataset.shards,
                provenance=provenance(dataset),
                compact=compact,
                force=force,
                progress=watched,
            )
            require_enough(experiment, len(plan.items["train"]))
            made_with = provenance(dataset)
            for line in (*_told(plan, manifests, made_with), *_shares(plan, source, dataset.split)):
                watched.note(line)
            _keep_identities(layout, manifests)
            changes, manifests = plan.changes, _packed(plan, source, dataset, layout, watched)
    write_json(layout.listing, {"listing": listing_of(dataset, source)})
    changed_by_hand(experiment, ["source", "shard"], watched, data=data)
    watched.finish()
    rows = [_row(manifest) for manifest in manifests.values()]
    title = f"{layout.shards} is up to date." if fresh else str(layout.shards)
    return Result(
        {
            "shards": str(layout.shards),
            "up_to_date": fresh,
            "changes": {name: list(names) for name, names in vars(changes).items()},
            "splits": rows,
            "others": dict(source.others),
        },
        [
            rows_table(title, COLUMNS, rows),
            *_left_out([*manifests.values()]),
            *others_lines(source.others),
            *_empty(source.empty),
            *_gone([*manifests.values()]),
            *_reduced([*manifests.values()]),
        ],
        ["mvmr", "extract-features"],
    )


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
    dataset: DatasetOptions,
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


def _left_out(manifests: Sequence[Manifest]) -> list[str]:
    """Say how many images cannot be decoded, and name the first ones."""
    named = {name: why for manifest in manifests for name, why in manifest.left_out.items()}
    every = sum(manifest.samples - manifest.gone for manifest in manifests)
    return left_out_lines(named, every, count=every - sum(m.valid for m in manifests))


def _empty(folders: Sequence[str]) -> Iterator[str]:
    """Name the folders that are no classes because they hold no image."""
    if folders:
        some = ", ".join(folders[:NAMED]) + (", ..." if len(folders) > NAMED else "")
        yield f"{counted(len(folders), 'folders')} without an image: no class ({some})."


def _reduced(manifests: Sequence[Manifest]) -> Iterator[str]:
    """Say how many images are stored smaller than they are."""
    if count := sum(manifest.reduced for manifest in manifests):
        saved = sum(manifest.saved for manifest in manifests)
        yield f"{counted(count, 'images')} stored reduced, in {megabytes(saved)} MB less."


def _gone(manifests: Sequence[Manifest]) -> Iterator[str]:
    """Say that images which are gone still take space."""
    if gone := sum(manifest.gone for manifest in manifests):
        yield (
            f"The tars still hold {counted(gone, 'images')} that are gone from the source. "
            "`mvmr shard --compact` packs the others anew; no feature is computed again."
        )


def _row(manifest: Manifest) -> dict[str, Any]:
    return {
        "split": manifest.split,
        "images": manifest.valid,
        "labelled": manifest.labelled,
        "invalid": manifest.samples - manifest.valid - manifest.gone,
        "gone": manifest.gone,
        "left_out": manifest.left_out,
        "tars": len(manifest.shards),
        "bytes": sum(shard.bytes for shard in manifest.shards),
    }
