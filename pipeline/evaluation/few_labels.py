"""The few training images whose labels may be seen: drawn or listed, and copied to shards.

They are shards of their own, so that training batches come as they do in training, from memory or
from tars.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock

import torch
from torch import Tensor

from pipeline.base.digests import digest
from pipeline.base.errors import DataError
from pipeline.base.progress import Silent
from pipeline.base.seeds import generator
from pipeline.datasets.source import Encoded, Item, Source
from pipeline.evaluation.image_set import Images
from pipeline.loading.batch import SplitData
from pipeline.shards.manifest import read_manifest
from pipeline.shards.reading import IMAGE_EXTENSIONS, Record, read_shard
from pipeline.shards.writing import ShardOptions, write_split

_DRAW = 0  # stream of random draws; 1 is that of the steps


def labelled_rows(images: Images, *, share: float | None, files: Path | None, seed: int) -> Tensor:
    """Return the rows (N,), sorted, of the training images whose labels may be seen.

    They are those that the text file `files` lists, or a `share` of each class, at least one.
    Raises DataError if the file cannot be read, or names another image.
    """
    known = images.known("train").nonzero().flatten()
    if files is not None:
        return _listed(files, images, known)
    share = share or 0.0
    labels, source = images.labels("train")[known], generator(seed, _DRAW)
    parts = []
    for label in torch.unique(labels).tolist():
        group = known[labels == label]
        count = max(1, round(share * len(group)))
        parts.append(group[torch.randperm(len(group), generator=source)[:count]])
    return torch.cat(parts).sort().values


def _listed(path: Path, images: Images, known: Tensor) -> Tensor:
    try:
        lines = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"The list of labelled images {str(path)!r} cannot be read: {error}."
        ) from error
    names = images.names("train")
    rows = {names[row]: row for row in known.tolist()}
    by_file = {Path(name).name: row for name, row in rows.items()}
    if len(by_file) < len(rows):  # the same file name in several folders
        by_file = {}
    missing = [line for line in lines if line not in rows and line not in by_file]
    if missing or not lines:
        found = f"{len(missing)} of {len(lines)} are not" if missing else "it is empty"
        first = f", such as {missing[0]!r}" if missing else ""
        raise DataError(
            f"{path} must list labelled training images by name, one a line; {found}{first}. "
            f"A name here is like {names[0]!r}."
        )
    chosen = {rows[line] if line in rows else by_file[line] for line in lines}
    return torch.tensor(sorted(chosen))


class _Chosen(Source):
    """Some images of a split, read back from its tars."""

    def __init__(self, data: SplitData, rows: Sequence[int], labels: Sequence[int]) -> None:
        self.classes = data.manifest.classes
        self._data = data
        self._lock = Lock()
        per = data.manifest.samples_per_shard
        self._places = {f"{row}": divmod(row, per) for row in rows}
        self.splits = {
            "train": [Item(f"{row}", label) for row, label in zip(rows, labels, strict=True)]
        }
        self._shard = lru_cache(maxsize=2)(self._read_shard)

    def read(self, item: Item) -> Encoded:
        """Return one image's file, from the tar that holds it."""
        number, row = self._places[item.name]
        with self._lock:
            record = self._shard(number)[row]
        return Encoded(record.data, _extension(record.data))

    def _read_shard(self, number: int) -> list[Record]:
        return list(read_shard(self._data.directory, self._data.manifest, number))


def _extension(data: bytes) -> str:
    jpg, png, webp = IMAGE_EXTENSIONS
    return jpg if data[:2] == b"\xff\xd8" else png if data[:4] == b"\x89PNG" else webp


def labelled_shards(images: Images, rows: Tensor, work: Path) -> SplitData:
    """Write training images `rows` (N,) of the valid ones as shards below `work`, or find them."""
    data = images.splits["train"]
    index = images.index("train")[rows].tolist()
    labels = images.labels("train")[rows].tolist()
    key = digest([data.manifest.digest, index])[:16]
    directory = work / f"labelled-{key}"
    source = _Chosen(data, index, labels)
    if not (directory / "manifest.json").exists():
        write_split(
            source,
            source.splits["train"],
            directory,
            dataset=data.manifest.dataset,
            split="train",
            options=ShardOptions(samples=min(data.manifest.samples_per_shard, len(index))),
            provenance={},
            progress=Silent(),
        )
    return SplitData(directory, read_manifest(directory), {}, data.image)
