"""Writing images as WebDataset tars, and the manifest that alone says what they contain.

    shards/<split>/000000.tar ...   members KEY.jpg|png|webp; KEY.cls (one class), or
                                    KEY.json (several), if labelled
    shards/<split>/samples.jsonl    one line per sample: key, label, name and stamp in the source
    shards/<split>/manifest.json    written last: a split without it is unfinished

A key is `{shard:06d}_{row:06d}`. Samples are shuffled first, so every tar is a random sample of
its split. The same items, options and files give byte-identical tars.
"""

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.base.atomic import atomic_path, write_json
from pipeline.base.digests import sha256_of
from pipeline.base.errors import DataError
from pipeline.base.locations import Location, remove_tree
from pipeline.base.options import Options
from pipeline.base.progress import Progress
from pipeline.datasets.source import (
    Encoded,
    Item,
    MultiLabel,
    Source,
    Split,
    label_to_json,
)
from pipeline.images.decoding import decode
from pipeline.shards.listing import LISTING, write_listing
from pipeline.shards.manifest import MANIFEST, Manifest, Shard, sample_key
from pipeline.shards.reading import INVALID_EXTENSION

MOST_NAMED = 20  # left-out images that a manifest names


class ShardOptions(Options):
    """`dataset.shards`: how many samples a tar holds, and how to treat a bad image."""

    samples: Annotated[int, Field(ge=1)] = 1000
    on_bad_image: Literal["fail", "skip"] = "fail"


def write_split(
    source: Source,
    items: Sequence[Item],
    directory: Location,
    *,
    dataset: str,
    split: Split,
    options: ShardOptions,
    provenance: Mapping[str, Any],
    progress: Progress,
) -> Manifest:
    """Write one split and return its manifest; an existing split is removed first.

    `provenance` is recorded, and later tells whether the shards are up to date. Raises DataError
    with the file's name if an image cannot be decoded, unless `options.on_bad_image` is "skip".
    Also raises it if no image can be decoded, or if some have one class and others several.
    """
    multi_label = _has_several(items, source.classes)
    remove_tree(directory)
    progress.start(f"shard {split}", len(items), "images", step="shard")
    shards, left_out = list[Shard](), dict[str, str]()
    for number, start in enumerate(range(0, len(items), options.samples)):
        chosen = items[start : start + options.samples]
        written = write_shard(source, chosen, directory, number, options)
        shards.append(written.shard)
        left_out |= written.left_out
        progress.advance(len(chosen))
    write_listing(items, directory, options.samples)
    manifest = Manifest(
        dataset=dataset,
        split=split,
        classes=None if source.classes is None else tuple(source.classes),
        samples=len(items),
        labelled=sum(item.label is not None for item in items),
        samples_per_shard=options.samples,
        source=source.listing_digest(),
        listing=sha256_of(directory / LISTING),
        options=dict(provenance),
        shards=tuple(shards),
        multi_label=multi_label,
        left_out=dict(islice(left_out.items(), MOST_NAMED)),
    )
    if not manifest.valid:
        raise DataError(f"None of the {manifest.samples} {split} images can be decoded.")
    write_json(directory / MANIFEST, {**manifest.content(), "seal": manifest.seal()})
    return manifest


def _has_several(items: Sequence[Item], classes: Sequence[str] | None) -> bool:
    several = {isinstance(item.label, MultiLabel) for item in items if item.label is not None}
    if len(several) > 1:
        raise DataError("Some images have one class and others a list of classes; use one form.")
    if True in several and classes is None:
        raise DataError("Images with lists of classes need the names of all classes.")
    return True in several


@dataclass(frozen=True)
class WrittenShard:
    """A tar, and why some of its images are invalid, by their names in the source."""

    shard: Shard
    left_out: Mapping[str, str]


def write_shard(
    source: Source, items: Sequence[Item], directory: Location, number: int, options: ShardOptions
) -> WrittenShard:
    """Write one tar of a split. Raises DataError as `write_split` does."""
    path = directory / f"{number:06d}.tar"
    with atomic_path(path) as temporary:
        invalid = _write_tar(source, items, temporary, number, options)
        size, sha256 = temporary.stat().st_size, sha256_of(temporary)
    shard = Shard(path.name, len(items), size, sha256, tuple(invalid))
    return WrittenShard(shard, {items[row].name: why for row, why in invalid.items()})


def _write_tar(
    source: Source, items: Sequence[Item], path: Path, number: int, options: ShardOptions
) -> dict[int, str]:
    """Write one tar and return the rows of images that could not be decoded, with the reasons."""

    def checked(item: Item) -> Encoded | DataError:
        try:
            encoded = source.read(item)
            decode(encoded.data)
        except DataError as error:
            return error
        return encoded

    invalid = {}
    with (
        ThreadPoolExecutor() as pool,
        tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for row, (item, encoded) in enumerate(zip(items, pool.map(checked, items), strict=True)):
            key = sample_key(number, row)
            if isinstance(encoded, DataError):
                if options.on_bad_image == "fail":
                    raise DataError(
                        f"{item.name}: {encoded} Mend or remove the file, or set "
                        "dataset.shards.on_bad_image to skip."
                    ) from encoded
                invalid[row] = str(encoded)
                encoded = Encoded(b"", INVALID_EXTENSION)
            _add(tar, f"{key}.{encoded.extension}", encoded.data)
            if isinstance(item.label, MultiLabel):
                _add(tar, f"{key}.json", json.dumps(label_to_json(item.label)).encode())
            elif item.label is not None:
                _add(tar, f"{key}.cls", str(item.label).encode())
    return invalid


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # owner, group and time are zero: same input, same bytes
    member.size = len(data)
    member.mode = 0o644
    tar.addfile(member, io.BytesIO(data))
