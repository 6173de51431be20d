"""`mvmr shard`: pack the images of the active data set into WebDataset tars."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.base.locations import remove_tree
from pipeline.base.progress import Progress, not_kept
from pipeline.base.timing import timed
from pipeline.datasets.source import SPLITS, Item, Source, Split
from pipeline.datasets.split import cut
from pipeline.features.store import FeatureStore
from pipeline.shards.manifest import Manifest, read_manifest
from pipeline.shards.writing import write_split
from stages.experiment.chosen import Chosen
from stages.experiment.freshness import finished_splits, provenance
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

COLUMNS = (
    Column("split", "split"),
    Column("images", "images", count),
    Column("labelled", "labelled", count),
    Column("invalid", "left out", count),
    Column("tars", "tars", count),
    Column("bytes", "MB", megabytes),
)


def shard(screen: Screen, *, chosen: Chosen, data: str, force: bool) -> Result:
    """Pack the images of the experiment's data set, unless they are packed already."""
    experiment = chosen.experiment
    dataset, watched = experiment.dataset, screen.progress
    layout = dataset_layout(dataset.name, data)
    announce(
        screen, "shard", experiment, reads=[source_name(dataset.source)], writes=[layout.shards]
    )
    watched.start("list images", 0, "")
    source = dataset.source.open()
    FeatureStore(layout.features).create()
    splits = cut(source, dataset.split)
    require_enough(experiment, len(splits.get("train", ())))
    watched.start("compare with what is packed", 0, "")
    fresh = not force and finished_splits(dataset, source, layout.shards) == set(splits)
    watched.finish()
    if fresh:
        manifests = [read_manifest(layout.shards / split) for split in splits]
    else:
        record = shard_record(layout, provenance(dataset), source.listing_digest())
        with timed([record], watched) as progress, not_kept("packing", progress):
            manifests = _pack(dataset, source, splits, layout, progress)
    rows = [_row(manifest) for manifest in manifests]
    title = f"{layout.shards} is up to date." if fresh else str(layout.shards)
    return Result(
        {
            "shards": str(layout.shards),
            "up_to_date": fresh,
            "splits": rows,
            "others": dict(source.others),
        },
        [rows_table(title, COLUMNS, rows), *_left_out(manifests), *others_lines(source.others)],
        ["mvmr", "extract-features"],
    )


def _pack(
    dataset: DatasetOptions,
    source: Source,
    splits: Mapping[Split, Sequence[Item]],
    layout: DatasetLayout,
    progress: Progress,
) -> list[Manifest]:
    for name in SPLITS:
        remove_tree(layout.shards / name)
    return [
        write_split(
            source,
            items,
            layout.shards / split,
            dataset=dataset.name,
            split=split,
            options=dataset.shards,
            provenance=provenance(dataset),
            progress=progress,
        )
        for split, items in splits.items()
    ]


def _left_out(manifests: Sequence[Manifest]) -> list[str]:
    """Say how many images cannot be decoded, and name the first ones."""
    named = {name: why for manifest in manifests for name, why in manifest.left_out.items()}
    every = sum(manifest.samples for manifest in manifests)
    return left_out_lines(named, every, count=every - sum(m.valid for m in manifests))


def _row(manifest: Manifest) -> dict[str, Any]:
    return {
        "split": manifest.split,
        "images": manifest.valid,
        "labelled": manifest.labelled,
        "invalid": manifest.samples - manifest.valid,
        "left_out": manifest.left_out,
        "tars": len(manifest.shards),
        "bytes": sum(shard.bytes for shard in manifest.shards),
    }
