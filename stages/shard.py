"""`mvmr shard`: pack the images of the active data set into WebDataset tars."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from pipeline.base.atomic import write_json
from pipeline.base.text import counted
from pipeline.shards.manifest import Manifest
from stages.experiment.chosen import Chosen
from stages.experiment.dvc_lock import changed_by_hand
from stages.experiment.freshness import listing_of
from stages.experiment.paths import dataset_layout
from stages.experiment.requirements import require_enough
from stages.steps.pack_images import pack_images
from stages.terminal.announcement import announce, source_name
from stages.terminal.console import Screen
from stages.terminal.result import (
    Column,
    Result,
    count,
    left_out_lines,
    megabytes,
    rows_table,
    unlisted_lines,
)

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
    packed = pack_images(
        dataset,
        layout,
        watched,
        force=force,
        compact=compact,
        require_enough=partial(require_enough, experiment),
    )
    manifests, source = [*packed.manifests.values()], packed.source
    write_json(layout.listing, {"listing": listing_of(dataset, source)})
    changed_by_hand(experiment, ["source", "shard"], watched, data=data)
    watched.finish()
    rows = [_row(manifest) for manifest in manifests]
    title = f"{layout.shards} is up to date." if packed.up_to_date else str(layout.shards)
    return Result(
        {
            "shards": str(layout.shards),
            "up_to_date": packed.up_to_date,
            "changes": {name: list(names) for name, names in vars(packed.changes).items()},
            "splits": rows,
            "others": dict(source.unlisted.others),
            "copies": dict(source.unlisted.copies),
            "closed": dict(source.unlisted.closed),
        },
        [
            rows_table(title, COLUMNS, rows),
            *_left_out(manifests),
            *unlisted_lines(source.unlisted),
            *_gone(manifests),
            *_reduced(manifests),
        ],
        ["mvmr", "extract-features"],
    )


def _left_out(manifests: Sequence[Manifest]) -> list[str]:
    """Say how many images cannot be decoded, and name the first ones."""
    named = {name: why for manifest in manifests for name, why in manifest.left_out.items()}
    every = sum(manifest.samples - manifest.gone for manifest in manifests)
    return left_out_lines(named, every, count=every - sum(m.valid for m in manifests))


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
