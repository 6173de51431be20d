"""`mvmr shard`: pack the images of the active data set into WebDataset tars."""

from pathlib import Path

import click

from pipeline.datasets.base import SPLITS
from pipeline.datasets.split import cut
from pipeline.shards import Manifest, write_split
from pipeline.storage import remove_tree
from pipeline.store import FeatureStore
from pipeline.timing import timed
from stages.console import ConsoleProgress, table
from stages.experiment import load
from stages.layout import dataset_layout
from stages.material import finished_splits, provenance
from stages.options import console, data_option, experiment_options
from stages.times import shard_record


@click.command("shard")
@experiment_options
@click.option("--force", is_flag=True, help="Pack again what other options or images made.")
@data_option
def command(
    config: Path, assignments: tuple[str, ...], quiet: bool, data: str, force: bool
) -> None:
    """Pack the images into shuffled WebDataset tars, split by seed, with a manifest."""
    dataset = load(config, assignments).dataset
    layout, screen = dataset_layout(dataset.name, data), console(quiet=quiet)
    source = dataset.source.open()
    FeatureStore(layout.features).create()
    splits = cut(source, dataset.split)
    if not force and finished_splits(dataset, source, layout.shards) == set(splits):
        screen.print(f"{layout.shards} is up to date.")
        return
    record = shard_record(layout, provenance(dataset), source.listing_digest())
    with ConsoleProgress(screen) as watched, timed([record], watched) as progress:
        for name in SPLITS:
            remove_tree(layout.shards / name)
        manifests = [
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
    screen.print(table(f"{layout.shards}", *_summary(manifests)))


def _summary(manifests: list[Manifest]) -> tuple[list[str], list[list[str]]]:
    columns = ["split", "images", "labelled", "invalid", "tars", "MB"]
    rows = [
        [
            manifest.split,
            str(manifest.samples),
            str(manifest.labelled),
            str(len(manifest.invalid)),
            str(len(manifest.shards)),
            f"{sum(shard.bytes for shard in manifest.shards) / 1e6:.1f}",
        ]
        for manifest in manifests
    ]
    return columns, rows
