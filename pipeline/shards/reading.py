"""Reading samples from tars, and checking each against the manifest."""

import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.base.errors import DataError
from pipeline.base.locations import Location
from pipeline.base.text import counted
from pipeline.datasets.source import Label, label_from_json
from pipeline.shards.manifest import Manifest, sample_key

# The extension of an empty file in place of an undecodable image, so that rows keep their numbers.
INVALID_EXTENSION = "invalid"
IMAGE_EXTENSIONS = ("jpg", "png", "webp")


@dataclass(frozen=True)
class Record:
    """One sample from a tar: its row in the shard, the image file's bytes, the label.

    The extension of one that is not valid is `INVALID_EXTENSION`.
    """

    row: int
    data: bytes
    label: Label | None
    valid: bool
    extension: str


def read_shard(
    directory: Location, manifest: Manifest, number: int, *, first: int = 0, last: int | None = None
) -> Iterator[Record]:
    """Yield rows `first` to `last` (excluded) of one tar, in order.

    Raises DataError if the tar is missing or cut short, or its keys do not fit the manifest.
    """
    shard = manifest.shards[number]
    last = shard.samples if last is None else last
    path = directory / shard.name
    row = 0
    try:
        for sample in _members(path):
            if row >= last:
                return
            if sample["__key__"] != sample_key(number, row):
                raise DataError(
                    f"{path}: expected sample {sample_key(number, row)}, found "
                    f"{sample['__key__']}. {_mend_tar(path)}"
                )
            if row >= first:
                yield _record(sample, row, path)
            row += 1
    except (OSError, tarfile.TarError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({error}). {_mend_tar(path)}") from error
    if row < last:
        raise DataError(
            f"{path} holds {counted(row, 'samples')}, its manifest says {shard.samples}. "
            f"{_mend_tar(path)}"
        )


def _members(path: Location) -> Iterator[dict[str, Any]]:
    from webdataset import tariterators

    with path.open("rb") as stream:
        files = tariterators.tar_file_expander([{"url": path.name, "stream": stream}])
        yield from tariterators.group_by_keys(files)


def _record(sample: Mapping[str, Any], row: int, path: Location) -> Record:
    label: Label | None = None
    if "cls" in sample:
        label = int(sample["cls"])
    elif "json" in sample:
        label = label_from_json(json.loads(sample["json"]))
    if INVALID_EXTENSION in sample:
        return Record(row, b"", label, False, INVALID_EXTENSION)
    for extension in IMAGE_EXTENSIONS:
        if extension in sample:
            return Record(row, sample[extension], label, True, extension)
    raise DataError(f"{path}: sample {sample['__key__']} has no image. {_mend_tar(path)}")


def _mend_tar(path: Location) -> str:
    return f"The tar is damaged: repair {path.parents[1]} with `mvmr store verify --repair`."
