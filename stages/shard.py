"""`mvmr shard`: pack the images of the active data set into WebDataset tars."""

from pathlib import Path
from typing import Any

import click

from pipeline.datasets.base import SPLITS, Source, Split
from pipeline.datasets.split import cut
from pipeline.errors import DataError
from pipeline.runtime import remove_tree
from pipeline.shards import Manifest, read_manifest, write_split
from pipeline.store import FeatureStore, differing
from stages.console import ConsoleProgress, table
from stages.experiment import DatasetOptions, load
from stages.layout import dataset_layout
from stages.options import console, experiment_options


@click.command("shard")
@experiment_options
@click.option("--force", is_flag=True, help="Pack again what other options or images made.")
def command(config: Path, assignments: tuple[str, ...], quiet: bool, force: bool) -> None:
    """Pack the images into shuffled WebDataset tars, split by seed, with a manifest."""
    dataset = load(config, assignments).dataset
    layout, screen = dataset_layout(dataset.name), console(quiet=quiet)
    source = dataset.source.open()
    options = _provenance(dataset)
    FeatureStore(layout.features).create()
    splits = cut(source, dataset.split)
    if not force and _up_to_date(layout.shards, set(splits), source, options):
        screen.print(f"{layout.shards} is up to date.")
        return
    with ConsoleProgress(screen) as progress:
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
                provenance=options,
                progress=progress,
            )
            for split, items in splits.items()
        ]
    screen.print(table(f"{layout.shards}", *_summary(manifests)))


def _provenance(dataset: DatasetOptions) -> dict[str, Any]:
    sections = ("source", "split", "shards")
    return {name: getattr(dataset, name).model_dump(mode="json") for name in sections}


def _up_to_date(shards: Path, splits: set[Split], source: Source, options: dict[str, Any]) -> bool:
    """Whether every split is finished and holds these images.

    Finished ones that hold other images are an error: they are not overwritten.
    """
    finished = {split for split in SPLITS if (shards / split / "manifest.json").exists()}
    for split in finished:
        manifest = read_manifest(shards / split)
        differences = list(differing(options, manifest.options))
        if manifest.source != source.listing_digest():
            differences.append("files of the source were added, removed or changed")
        if differences:
            raise DataError(
                f"{shards} was made from something else: {'; '.join(differences)}. Pack it again "
                "with `mvmr shard --force`, or give dataset.name another name."
            )
    return finished == splits


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
