"""Finding files of a split that cannot be trusted, and making just those again."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.base.digests import sha256_of
from pipeline.base.errors import DataError
from pipeline.base.locations import Location
from pipeline.base.progress import Progress, Silent
from pipeline.datasets.source import Item, Source
from pipeline.shards.listing import LISTING, write_listing
from pipeline.shards.manifest import Manifest
from pipeline.shards.writing import ShardOptions, write_shard


@dataclass(frozen=True)
class DamagedFile:
    """A file of a split that is not what the manifest says; `shard` is its number if a tar."""

    path: Location
    reason: str
    shard: int | None = None


def find_damage(
    directory: Location, manifest: Manifest, *, progress: Progress | None = None
) -> list[DamagedFile]:
    """Read every file of a split and return those that cannot be trusted."""
    progress = progress or Silent()
    expected: list[tuple[str, str, int | None]] = [(LISTING, manifest.listing, None)]
    expected += [(s.name, s.sha256, number) for number, s in enumerate(manifest.shards)]
    damaged = []
    progress.start(f"read {directory.name} shards", len(expected), "files")
    for name, sha256, number in expected:
        path = directory / name
        if not path.exists():
            damaged.append(DamagedFile(path, "is missing", number))
        elif sha256_of(path) != sha256:
            damaged.append(DamagedFile(path, "is not what was written", number))
        progress.advance(1)
    return damaged


def repair_split(
    source: Source,
    items: Sequence[Item],
    directory: Location,
    manifest: Manifest,
    damaged: Sequence[DamagedFile],
    options: ShardOptions,
) -> None:
    """Write damaged files of a split anew, from the items that it was made from.

    Raises DataError if the source no longer gives what it gave; the manifest stays as it is.
    """
    samples = manifest.samples_per_shard
    for file in damaged:
        if file.shard is None:
            write_listing(items, directory, samples)
        else:
            chosen = items[file.shard * samples : (file.shard + 1) * samples]
            write_shard(source, chosen, directory, file.shard, options)
    left = find_damage(directory, manifest)
    if left:
        raise DataError(
            f"{left[0].path} cannot be made again as it was: the images of the source have "
            "changed. Make the shards anew by `mvmr shard --force`, and their features."
        )
