"""Images in Parquet files, as Hugging Face datasets writes them, local or behind any fsspec URL.

A row is an image: a structure of `bytes` and `path`, or the bytes alone, and perhaps its label: a
class's number or name, or a list of them. -1 stands for no label.

Parquet gives images only together with the whole row group in which they are. So the first time
that one is read, the others of its group are read with it, and copied to a temporary file, from
which they are then read one by one. It takes as much space as the images, and vanishes with the
process.
"""

import tempfile
import weakref
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import IO, Any, Literal

from pipeline.base.errors import ConfigError, DataError
from pipeline.base.locations import Location, is_local
from pipeline.datasets.files import read_lines
from pipeline.datasets.image_files import as_packed
from pipeline.datasets.parquet_files import open_parquet
from pipeline.datasets.remote_files import expanded, remembered, url_stamp
from pipeline.datasets.source import SPLITS, Encoded, Item, Source, SourceOptions, Split
from pipeline.datasets.written_labels import WrittenClasses, WrittenLabel, written_label

IMAGES_AT_ONCE = 16  # of a row group that is copied
WHAT = "Parquet file"


class ParquetOptions(SourceOptions):
    """`dataset.source: {kind: parquet, train: "URL/train-*.parquet", labels: label}`.

    `validation` and `test` are further URLs; *, ? and [...] stand for whatever matches, and braces
    such as {000..099} for all numbers in the range. `image` and `labels` are columns; `labels:
    none` leaves images without labels. `classes` is a file of all class names, one per line, in the
    order of their numbers. Without it, they are those that the files state; else numbers are their
    own names, and names are sorted.
    """

    kind: Literal["parquet"] = "parquet"
    train: str
    validation: str | None = None
    test: str | None = None
    image: str = "image"
    labels: str = "label"
    classes: str | None = None

    def open(self) -> "ParquetImages":
        """List the files."""
        return self._opened(None)

    def open_again(self, listings: Location) -> "ParquetImages":
        """List the files; of those that have not changed, read what was remembered."""
        return self._opened(listings)

    def _opened(self, listings: Location | None) -> "ParquetImages":
        given: dict[Split, str | None] = {
            "train": self.train,
            "validation": self.validation,
            "test": self.test,
        }
        return ParquetImages(
            {split: url for split, url in given.items() if url is not None},
            image=self.image,
            labels=None if self.labels == "none" else self.labels,
            classes=read_lines(Path(self.classes), "list of classes") if self.classes else None,
            listings=listings,
        )


class ParquetImages(Source):
    """Image files as they are, or as PNG if their format is not passed through.

    An item's name is its file, its row, and the path that is written beside it.
    """

    def __init__(
        self,
        urls: Mapping[Split, str],
        *,
        image: str = "image",
        labels: str | None = "label",
        classes: Sequence[str] | None = None,
        listings: Location | None = None,
    ) -> None:
        local = listings if listings is not None and is_local(listings) else None
        self._spool = _Spool(image, None if local is None else str(local))
        self._rows: dict[str, int] = {}
        named: dict[str, Sequence[str] | None] = {}
        written = list[WrittenLabel]()
        names: dict[Split, list[tuple[str, str]]] = {split: [] for split in SPLITS if split in urls}
        for split, found in names.items():
            for url in expanded(urls[split], WHAT):
                listed = _listed(url, url_stamp(url, WHAT), image, labels, listings)
                named[url] = listed.classes
                self._spool.add(url, listed.group_rows)
                for row, (path, label) in enumerate(listed.samples):
                    name = f"{url}/{row:06d}{f'/{path}' if path else ''}"
                    self._rows[name] = len(self._rows)
                    written.append(label)
                    found.append((name, listed.stamp))
        meant = WrittenClasses.of(written, classes or _stated(named))
        self.classes = meant.names
        self.splits = {
            split: [
                Item(name, meant.label(written[self._rows[name]], name), stamp)
                for name, stamp in found
            ]
            for split, found in names.items()
        }

    def read(self, item: Item) -> Encoded:
        """Return one image file."""
        return as_packed(self._spool.read(self._rows[item.name]))


@dataclass(frozen=True)
class _Listing:
    """What a file holds: rows by row group, names of classes, and path and label of each row."""

    stamp: str
    group_rows: Sequence[int]
    classes: Sequence[str] | None
    samples: Sequence[tuple[str, WrittenLabel]]


def _listed(
    url: str, stamp: str, image: str, labels: str | None, listings: Location | None
) -> _Listing:
    question = {"file": url, "stamp": stamp, "image": image, "labels": labels}

    def look() -> list[Any]:
        with open_parquet(url) as file:
            file.require_column(image, "image")
            members = file.members(image)
            if "bytes" not in members and not file.holds_bytes(image):
                raise ConfigError(
                    f"{url}: the column {image!r} holds no bytes, and no structure with `bytes`. "
                    "Set dataset.source.image, or use kind: table for paths of files."
                )
            columns = [f"{image}.path"] if "path" in members else []
            if labels is not None:
                file.require_column(labels, "labels")
                columns.append(labels)
            rows = file.rows(columns) if columns else ({} for _ in range(sum(file.group_rows)))
            samples = [
                [
                    _printable((row.get(image) or {}).get("path")),
                    written_label(row.get(labels), f"{url}/{number:06d}") if labels else None,
                ]
                for number, row in enumerate(rows)
            ]
            return [file.group_rows, file.class_names(labels) if labels else None, samples]

    group_rows, classes, samples = remembered(listings, url, question, look)
    return _Listing(stamp, group_rows, classes, samples)


def _printable(path: object) -> str:
    """Return a path as part of a name; one with control characters is left out."""
    return path if isinstance(path, str) and path.isprintable() else ""


def _stated(named: Mapping[str, Sequence[str] | None]) -> list[str] | None:
    """Return the names of classes that the files state; DataError if they differ."""
    first = next(iter(named))
    for url, names in named.items():
        if names != named[first]:
            raise DataError(
                f"{first} and {url} state other names of classes: list them in "
                "dataset.source.classes."
            )
    stated = named[first]
    return None if stated is None else list(stated)


@dataclass
class _File:
    """A file, and where its images begin and end in their copy, or why there is none."""

    url: str
    starts: list[int]  # the first row of each row group, and the number of rows
    places: dict[int, tuple[int, int] | str] = field(default_factory=dict)
    lock: Lock = field(default_factory=Lock)
    copied: IO[bytes] | None = None


class _Spool:
    """The images of several files, numbered consecutively, copied by row group when first read."""

    def __init__(self, image: str, folder: str | None) -> None:
        self._image, self._folder = image, folder
        self._files: list[_File] = []
        self._firsts: list[int] = []
        self._rows = 0
        self._open = ExitStack()
        weakref.finalize(self, self._open.close)

    def add(self, url: str, group_rows: Sequence[int]) -> None:
        """Add a file with these numbers of rows in its row groups."""
        self._files.append(_File(url, [0, *accumulate(group_rows)]))
        self._firsts.append(self._rows)
        self._rows += sum(group_rows)

    def read(self, number: int) -> bytes:
        """Return the bytes of an image. Raises DataError if there are none, or they are damaged."""
        at = bisect_right(self._firsts, number) - 1
        while not self._files[at].starts[-1]:  # a file without rows
            at -= 1
        file, row = self._files[at], number - self._firsts[at]
        with file.lock:
            if row not in file.places:
                self._copy(file, bisect_right(file.starts, row) - 1)
            place = file.places[row]
            if isinstance(place, str) or file.copied is None:
                raise DataError(f"{place}")
            file.copied.seek(place[0])
            return file.copied.read(place[1] - place[0])

    def _copy(self, file: _File, group: int) -> None:
        if file.copied is None:
            if self._folder is not None:
                Path(self._folder).mkdir(parents=True, exist_ok=True)
            copied = tempfile.TemporaryFile(dir=self._folder, prefix="parquet-")  # noqa: SIM115
            file.copied = self._open.enter_context(copied)
        first, last = file.starts[group : group + 2]
        begin = file.copied.seek(0, 2)
        try:
            with open_parquet(file.url) as parquet:
                column = f"{self._image}.bytes" if parquet.members(self._image) else self._image
                rows = parquet.rows([column], group=group, at_once=IMAGES_AT_ONCE)
                for row, values in enumerate(rows, first):
                    image = values[self._image]
                    data = image["bytes"] if isinstance(image, dict) else image
                    if data is None:
                        file.places[row] = "It holds no bytes; use kind: table for paths of files."
                        continue
                    end = begin + file.copied.write(data)
                    file.places[row], begin = (begin, end), end
        except DataError as error:
            for row in range(first, last):
                file.places.setdefault(row, str(error))
