"""Finding the damaged files of a split, and writing only those again."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace

from pipeline.base.damage import Damage, changed_files
from pipeline.base.errors import DataError
from pipeline.base.locations import Location
from pipeline.base.progress import Progress, Silent
from pipeline.datasets.identity import identify, identity_of
from pipeline.datasets.source import Item, Source
from pipeline.images.decoding import decode
from pipeline.shards.listing import (
    LISTING,
    ListedSample,
    Smaller,
    read_samples,
    write_listing,
)
from pipeline.shards.manifest import Manifest
from pipeline.shards.reading import read_shard
from pipeline.shards.writing import ShardOptions, repack_shard, stored_smaller


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
    directory: Location,
    manifest: Manifest,
    damaged: Sequence[Damage],
    options: ShardOptions,
) -> None:
    """Write damaged files of a split again, from the images that it was made from.

    The manifest stays unchanged. Raises DataError if the source has changed since.
    """
    items = {item.name: item for some in source.splits.values() for item in some}
    size = manifest.samples_per_shard
    if any(file.number is None for file in damaged):
        samples = _samples_of_tars(source, items.values(), directory, manifest, options)
        write_listing(samples, directory / LISTING, size)
    tars = [file.number for file in damaged if file.number is not None]
    samples = read_samples(directory, manifest) if tars else []
    for number in tars:
        first = number * size
        repack_shard(source, items, samples[first : first + size], directory, number, options)
    left = split_damage(directory, manifest)
    if left:
        raise DataError(
            f"{left[0].path} cannot be made again as it was: images of the source have changed or "
            "are gone. Pack all images again with `mvmr shard --force`; only features of images "
            "that are new are computed."
        )


def _samples_of_tars(
    source: Source,
    items: Iterable[Item],
    directory: Location,
    manifest: Manifest,
    options: ShardOptions,
) -> list[ListedSample]:
    """Return the samples of a split by its tars and the images of the source that equal theirs."""
    identities, smaller = identify(source, items), _stored_smaller(source, items, options)
    equal, left = defaultdict[str, list[Item]](list), {item.name: item for item in items}
    for item in items:
        stored = smaller.get(item.name)
        equal[stored.stored if stored else identities[item.name]].append(item)
    records = [r for n in range(len(manifest.shards)) for r in read_shard(directory, manifest, n)]
    found = list[Item | None]()
    for record in records:
        same = equal.get(identity_of(record.data)) if record.valid else None
        found.append(left.pop(same.pop(0).name) if same else None)
    others = (item for item in left.values() if not _decodable(source, item))
    samples = []
    for record, known in zip(records, found, strict=True):
        named = known or (None if record.valid else next(others, None))
        if named is None:
            raise DataError(
                f"{directory / LISTING} cannot be made again as it was: images of the source have "
                "changed or are gone. Pack all images again with `mvmr shard --force`."
            )
        identity, stored = identities[named.name], smaller.get(named.name)
        samples.append(
            ListedSample(named.name, record.label, named.stamp, identity, not record.valid, stored)
        )
    return samples


def _stored_smaller(
    source: Source, items: Iterable[Item], options: ShardOptions
) -> dict[str, Smaller]:
    """Return, by name, what is stored of those images that are stored reduced."""
    found = dict[str, Smaller]()
    for item in items if options.reduction else ():
        with suppress(DataError):  # it cannot be decoded
            if smaller := stored_smaller(source.read(item).data, options):
                found[item.name] = smaller[1]
    return found


def _decodable(source: Source, item: Item) -> bool:
    try:
        decode(source.read(item).data)
    except DataError:
        return False
    return True
