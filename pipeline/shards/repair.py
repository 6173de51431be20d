"""Finding the damaged files of a split, and writing only those again."""

from collections.abc import Sequence
from dataclasses import replace

from pipeline.base.damage import Damage, changed_files
from pipeline.base.errors import DataError
from pipeline.base.locations import Location
from pipeline.base.progress import Progress, Silent
from pipeline.datasets.source import Item, Source
from pipeline.shards.listing import LISTING, write_listing
from pipeline.shards.manifest import Manifest
from pipeline.shards.writing import ShardOptions, write_shard


def split_damage(
    directory: Location, manifest: Manifest, *, progress: Progress | None = None
) -> list[Damage]:
    """Read every file of a split and return those that are damaged or missing."""
    progress = progress or Silent()
    numbers = {shard.name: number for number, shard in enumerate(manifest.shards)}
    recorded = {LISTING: manifest.listing, **{s.name: s.sha256 for s in manifest.shards}}
    damaged = list[Damage]()
    progress.start(f"read {directory.name} shards", len(recorded), "files")
    for name, sha256 in recorded.items():
        found = changed_files(directory, {name: sha256})
        damaged += [replace(damage, number=numbers.get(name)) for damage in found]
        progress.advance(1)
    return damaged


def repair_split(
    source: Source,
    items: Sequence[Item],
    directory: Location,
    manifest: Manifest,
    damaged: Sequence[Damage],
    options: ShardOptions,
) -> None:
    """Write damaged files of a split again, from the items that it was made from.

    The manifest stays unchanged. Raises DataError if the source has changed since.
    """
    samples = manifest.samples_per_shard
    for file in damaged:
        if file.number is None:
            write_listing(items, directory, samples)
        else:
            chosen = items[file.number * samples : (file.number + 1) * samples]
            write_shard(source, chosen, directory, file.number, options)
    left = split_damage(directory, manifest)
    if left:
        raise DataError(
            f"{left[0].path} cannot be made again as it was: the images of the source have "
            "changed. Write all shards again with `mvmr shard --force`, then their features."
        )
