"""A table of image files and labels: CSV, TSV or Parquet, with a row for each image.

A cell of the labels is a class's number or name, or several of them: a list in Parquet, or text
with a separator.
"""

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.base.errors import ConfigError, DataError, unknown_name
from pipeline.datasets.files import read_lines, stamp_of
from pipeline.datasets.image_files import encoded
from pipeline.datasets.parquet_files import open_parquet
from pipeline.datasets.remote_files import expanded
from pipeline.datasets.source import SPLITS, Encoded, Item, Source, SourceOptions, Split
from pipeline.datasets.written_labels import WrittenClasses, WrittenLabel, written_label

DELIMITERS = {".csv": ",", ".tsv": "\t"}
PARQUET = (".parquet", ".pq")
WHAT = "table"


class TableOptions(SourceOptions):
    """`dataset.source: {kind: table, train: FILE, path: path, labels: label}`.

    `validation` and `test` are further tables; *, ? and [...] stand for whatever matches. `path`
    and `labels` are columns; `labels: none` leaves images without labels. Paths are relative to
    `root`, by default the folder of their table, and stay below it. With a `separator`, such as
    ";", a cell of the labels is a list of classes. `classes` is a file of all class names, one per
    line, in the order of their numbers. Without it, they are those that Parquet states; else
    numbers are their own names, and names are sorted.
    """

    kind: Literal["table"] = "table"
    train: str
    validation: str | None = None
    test: str | None = None
    root: str | None = None
    path: str = "path"
    labels: str = "label"
    separator: str | None = None
    classes: str | None = None

    def open(self) -> "ImageTable":
        """Read the tables."""
        given: dict[Split, str | None] = {
            "train": self.train,
            "validation": self.validation,
            "test": self.test,
        }
        columns = Columns(self.path, None if self.labels == "none" else self.labels, self.separator)
        return ImageTable(
            {split: url for split, url in given.items() if url is not None},
            columns,
            root=None if self.root is None else Path(self.root),
            classes=read_lines(Path(self.classes), "list of classes") if self.classes else None,
        )


@dataclass(frozen=True)
class Columns:
    """The columns of paths and labels, and what separates classes within a cell of text."""

    path: str
    labels: str | None
    separator: str | None = None


class ImageTable(Source):
    """Image files as they are, or converted to PNG; an item's name is its path in the table."""

    def __init__(
        self,
        tables: Mapping[Split, str],
        columns: Columns,
        *,
        root: Path | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        self._files: dict[str, Path] = {}
        found: dict[Split, list[tuple[str, WrittenLabel]]] = {}
        stated: Sequence[str] | None = None
        for split in [split for split in SPLITS if split in tables]:
            found[split] = []
            for url in expanded(tables[split], WHAT):
                table = Path(url)
                names, rows = _rows(table, columns)
                stated = stated or names
                for number, (path, label) in enumerate(rows, 1):
                    self._add(path, root or table.parent, f"{table}, row {number}")
                    found[split].append((path, label))
        written = [label for rows in found.values() for _, label in rows]
        meant = WrittenClasses.of(written, classes or stated)
        self.classes = meant.names
        self.splits = {
            split: [
                Item(path, meant.label(label, path), _stamp(self._files[path]))
                for path, label in rows
            ]
            for split, rows in found.items()
        }

    def _add(self, path: str, root: Path, where: str) -> None:
        file = Path(os.path.normpath(root / path))
        if not path or not file.is_relative_to(os.path.normpath(root)):
            raise DataError(
                f"{where}: {path!r} is no path below {str(root)!r}: set dataset.source.root to a "
                "folder that holds all images."
            )
        if path in self._files:
            raise DataError(
                f"{where}: {path!r} is in a table twice. Give each image one row; with several "
                "classes, in one cell with dataset.source.separator."
            )
        self._files[path] = file

    def read(self, item: Item) -> Encoded:
        """Return one file as it is, or converted to PNG if its format is not passed through."""
        return encoded(self._files[item.name])


def _stamp(file: Path) -> str:
    """Return a file's stamp; one that is missing fails when it is read."""
    return stamp_of(file) if file.is_file() else ""


Rows = Iterator[tuple[str, WrittenLabel]]


def _rows(table: Path, columns: Columns) -> tuple[Sequence[str] | None, Rows]:
    """Return the names of classes that a table states, and its paths and labels, row by row."""
    if table.suffix.lower() in PARQUET:
        names = None
        if columns.labels is not None:
            with open_parquet(str(table)) as file:
                names = file.class_names(columns.labels)
        return names, _parquet_rows(table, columns)
    if table.suffix.lower() not in DELIMITERS:
        raise ConfigError(
            f"A table is a file {', '.join([*DELIMITERS, *PARQUET])}; found {str(table)!r}."
        )
    return None, _text_rows(table, columns)


def _parquet_rows(table: Path, columns: Columns) -> Rows:
    with open_parquet(str(table)) as file:
        chosen = [columns.path, *([columns.labels] if columns.labels else [])]
        for column, option in zip(chosen, ("path", "labels"), strict=False):
            file.require_column(column, option)
        for number, row in enumerate(file.rows(chosen), 1):
            yield _row(row, columns, f"{table}, row {number}")


def _text_rows(table: Path, columns: Columns) -> Rows:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, delimiter=DELIMITERS[table.suffix.lower()], strict=True)
            given = reader.fieldnames or ()
            for column, option in ((columns.path, "path"), (columns.labels, "labels")):
                if column is not None and column not in given:
                    unknown = unknown_name("column", column, given)
                    raise ConfigError(f"{table}: {unknown} Set dataset.source.{option}.")
            for number, row in enumerate(reader, 1):
                if None in row or None in row.values():
                    raise DataError(
                        f"{table}, row {number}: it has another number of cells than the header, "
                        f"{len(given)}."
                    )
                yield _row(row, columns, f"{table}, row {number}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"The table {str(table)!r} cannot be read: {error}.") from error


def _row(row: Mapping[str, Any], columns: Columns, where: str) -> tuple[str, WrittenLabel]:
    path = row[columns.path]
    if not isinstance(path, str):
        raise DataError(f"{where}: a path is text; found {path!r}.")
    if columns.labels is None:
        return path, None
    cell = row[columns.labels]
    if columns.separator is not None and isinstance(cell, str):
        cell = [one.strip() for one in cell.split(columns.separator) if one.strip()]
    return path, written_label(cell, where)
