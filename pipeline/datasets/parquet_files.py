"""Parquet files by pyarrow: their columns in small parts, and the names of classes."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pipeline.base.errors import ConfigError, DataError, unknown_name

AT_ONCE = 1024  # rows of labels and names
BUFFER_BYTES = 1 << 20  # of a column that is read; without it, a whole row group would be held


@dataclass(frozen=True)
class ParquetFile:
    """An open file: row groups and their rows, and readers of its columns."""

    url: str
    opened: Any

    @property
    def group_rows(self) -> list[int]:
        """The number of rows of each row group."""
        metadata = self.opened.metadata
        return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]

    def require_column(self, column: str, option: str) -> None:
        """Raise ConfigError if there is no column that an option of the source names."""
        schema = self.opened.schema_arrow
        if column not in schema.names:
            unknown = unknown_name("column", column, schema.names)
            raise ConfigError(f"{self.url}: {unknown} Set dataset.source.{option}.")

    def holds_bytes(self, column: str) -> bool:
        """Whether a column holds bytes, without a structure."""
        return "binary" in str(self.opened.schema_arrow.field(column).type).split("<")[0]

    def members(self, column: str) -> tuple[str, ...]:
        """Return the names of the members of a structure, none of any other column."""
        kind = self.opened.schema_arrow.field(column).type
        if not str(kind).startswith("struct"):
            return ()
        return tuple(kind.field(place).name for place in range(kind.num_fields))

    def class_names(self, column: str) -> list[str] | None:
        """Return the names of a column of class labels, as Hugging Face datasets records them."""
        metadata = self.opened.schema_arrow.metadata or {}
        try:
            features = json.loads(metadata[b"huggingface"])["info"]["features"]
            return _names_in(features[column])
        except (KeyError, ValueError, TypeError):
            return None

    def rows(
        self, columns: Sequence[str], *, group: int | None = None, at_once: int = AT_ONCE
    ) -> Iterator[dict[str, Any]]:
        """Yield the rows of a row group, or of all, with these columns.

        A column `a.b` is one member of a structure. Raises DataError if they cannot be read.
        """
        groups = None if group is None else [group]
        try:
            for batch in self.opened.iter_batches(at_once, groups, list(columns)):
                yield from batch.to_pylist()
        except (OSError, ValueError) as error:  # Arrow's errors are of both kinds
            raise DataError(f"{self.url} cannot be read ({error}).") from error


@contextmanager
def open_parquet(url: str) -> Iterator[ParquetFile]:
    """Open a file behind a path or a URL.

    Raises ConfigError if pyarrow is missing, DataError if the file is not whole.
    """
    import fsspec

    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ConfigError("Reading Parquet needs pyarrow: pip install 'mvmr[parquet]'.") from error
    with fsspec.open(url, "rb") as stream:
        try:
            opened = parquet.ParquetFile(stream, buffer_size=BUFFER_BYTES, pre_buffer=False)
        except (OSError, ValueError) as error:
            raise DataError(f"{url} is not a whole Parquet file: {error}.") from error
        with opened:
            yield ParquetFile(url, opened)


def _names_in(feature: Any) -> list[str] | None:
    """Return the names of a class label, or of a list of them."""
    if isinstance(feature, list):  # how a list was written before `Sequence`
        return _names_in(feature[0])
    if feature.get("_type") == "ClassLabel":
        return [str(name) for name in feature["names"]]
    return _names_in(feature["feature"]) if "feature" in feature else None
