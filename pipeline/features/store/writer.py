"""Writing a feature so that an interrupted run can be continued."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.base.digests import digest
from pipeline.base.errors import ArgumentError, MvmrError, StoreError
from pipeline.base.locations import Location, is_local, move_tree, names_in, remove_tree
from pipeline.features.encoding import ARRAY_TYPES, Array, Encoding
from pipeline.features.store.feature import (
    BASIS,
    FeatureStore,
    Fingerprint,
    StoredFeature,
    read_reduction,
)
from pipeline.features.store.hierarchy import checksums, open_array, open_group
from pipeline.features.store.identities import covers
from pipeline.features.store.integrity import (
    REDUCTION,
    UNREADABLE,
    metadata_digests,
    root_attributes,
    seal,
)
from pipeline.representations.storing import StoredType

if TYPE_CHECKING:
    import zarr

FORMAT = 3
CHUNK_BYTES = 64 * 2**20
# A folder below the work of a feature, with one empty file per finished shard.
DONE = "done"
REPORT = "report"  # of a reduction
# Held, in the folder of all unfinished features, by whoever writes to the store.
LOCK = "lock"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _-]*")  # that is no path


class FeatureWriter:
    """Writes the feature `name` of a store, and records below `work` which shards are finished.

    On a local disk, a feature is written below `work` and moved into the store when it is
    complete. On object storage, it is written in place, and becomes readable in the last step,
    which marks it as complete.
    """

    def __init__(
        self, store: FeatureStore, name: str, work: Location, fingerprint: Fingerprint
    ) -> None:
        """Raise ArgumentError unless the name can be that of a feature's folder."""
        if not NAME.fullmatch(name):
            raise ArgumentError(
                "A feature's name has letters, digits, spaces, _ and -, and begins with one of the "
                f"first two; found {name!r}."
            )
        self.work = work
        self.target = store.path / name
        self.home = work / "feature" if is_local(work) else self.target
        self._store, self._name = store, name
        self._fingerprint = dict(fingerprint)
        self._markers = work / DONE

    def begin(self) -> None:
        """Continue the work of an interrupted run with the same fingerprint, or start over."""
        try:
            found = root_attributes(self.home)
        except (*UNREADABLE, AttributeError):
            found = {}
        if digest(found.get("fingerprint")) == digest(self._fingerprint):
            return
        remove_tree(self.work)
        remove_tree(self.home)
        self._group("a").attrs.put(self._unfinished())

    def reopen(self) -> None:
        """Turn a published feature back into an unfinished one, with no shard marked as done.

        Its attributes are replaced. The rows must have been made from this writer's fingerprint,
        which is not checked.
        """
        remove_tree(self.work)
        if self.home != self.target:
            self.home.parent.mkdir(parents=True, exist_ok=True)
            self.target.replace(self.home)  # type: ignore[arg-type]
        self._group("a").attrs.put(self._unfinished())

    def _unfinished(self) -> dict[str, Any]:
        return {"format": FORMAT, "fingerprint": self._fingerprint, "complete": False}

    def write_reduction(self, arrays: Mapping[str, Array], attributes: Mapping[str, Any]) -> None:
        """Store the reduction, which maps the representation to the stored numbers.

        Its report may be among the attributes, or follow by `write_report`.
        """
        group = self._group("r+").create_group(REDUCTION, overwrite=True)
        summary = hashlib.sha256(digest(attributes).encode())
        for name, values in sorted(arrays.items()):
            _write_array(group, name, values)
            summary.update(f"{name} {values.dtype} {values.shape};".encode())
            summary.update(values.tobytes())
        group.attrs.update({**attributes, "digest": summary.hexdigest(), "complete": True})

    def write_report(self, arrays: Mapping[str, Array], report: Mapping[str, Any]) -> None:
        """Store what was measured while rows were computed, beside the reduction."""
        group: Any = self._group("r+")[REDUCTION]
        for name, values in sorted(arrays.items()):
            _write_array(group, name, values)
        group.attrs.update({REPORT: dict(report)})

    def has_report(self) -> bool:
        """Whether there is a reduction with its report."""
        return self.has_reduction() and REPORT in self._group("r")[REDUCTION].attrs.asdict()

    def has_reduction(self) -> bool:
        """Whether `write_reduction` has been completed."""
        group = self._group("r")
        return REDUCTION in group and bool(group[REDUCTION].attrs.asdict().get("complete"))

    def reduction(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return the arrays and attributes that `write_reduction` stored."""
        return read_reduction(self._group("r"))

    def reduction_digest(self) -> str:
        """Return the recorded SHA-256 of the reduction."""
        return str(self._group("r")[REDUCTION].attrs["digest"])

    def create_split(
        self,
        split: str,
        *,
        samples: int,
        width: int,
        stored_type: StoredType,
        samples_per_shard: int,
    ) -> None:
        """Create the array of a split, unless an interrupted run has created it.

        Rows that such a run wrote with another reduction are discarded.
        """
        group = self._group("r+")
        made_by = {"fingerprint": digest(self._fingerprint)}
        if BASIS in self._group("r")[REDUCTION].attrs.asdict():  # it was fitted
            made_by["reduction"] = self.reduction_digest()
        if split in group:
            if made_by.items() <= group[split].attrs.asdict().items():
                return
            for marker in names_in(self._markers):
                if marker.startswith(f"{split}-"):
                    (self._markers / marker).unlink()
        kind = ARRAY_TYPES[stored_type]
        rows = chunk_rows(min(samples_per_shard, samples), width, np.dtype(kind.array).itemsize)
        group.create_array(
            split,
            shape=(samples, width),
            chunks=(rows, width),
            dtype=kind.array,
            fill_value=kind.gap,
            compressors=checksums(),
            attributes={
                "rows": "row i is sample i of the split, in the order of its manifest",
                "stored_type": stored_type,
                "decoding": kind.meaning,
                **made_by,
            },
            overwrite=split in group,
        )

    def chunk_rows(self, split: str) -> int:
        """Return the number of rows per chunk of `split`."""
        return int(self._array(split).chunks[0])

    def width(self, split: str) -> int:
        """Return the numbers per row of `split`."""
        return int(self._array(split).shape[1])

    def write_rows(
        self,
        split: str,
        first: int,
        rows: Array,
        encoding: Encoding,
        *,
        keep: "npt.NDArray[np.bool_] | None" = None,
    ) -> None:
        """Encode floats and write them as whole chunks, beginning at row `first`.

        The rows that `keep` marks stay as they are. Raises StoreError if a number is not finite in
        the stored type.
        """
        try:
            numbers = encoding.encode(rows)
        except StoreError as error:
            raise StoreError(f"{split}, rows from sample {first} on: {error}") from error
        if keep is not None and keep.any():
            self._require_place(split, first, numbers)
            held = self._array(split)[first : first + len(rows)]
            numbers = np.where(keep[:, None], held, numbers)
        self.write_raw(split, first, numbers)

    def write_raw(self, split: str, first: int, numbers: Array) -> None:
        """Write rows as the array holds them, as whole chunks, beginning at row `first`.

        Raises StoreError if they are of another width or type, or beyond the last row.
        """
        self._require_place(split, first, numbers)
        self._array(split)[first : first + len(numbers)] = numbers

    def _require_place(self, split: str, first: int, numbers: Array) -> None:
        array = self._array(split)
        samples, width = array.shape
        wrong = numbers.shape[1:] != (width,) or numbers.dtype != array.dtype
        if wrong or not 0 <= first <= samples - len(numbers):
            raise StoreError(
                f"{split} of feature {self._name!r} has {samples:,} rows of {width} numbers, "
                f"{array.dtype}; found rows {first:,} to {first + len(numbers):,} of shape "
                f"{numbers.shape}, {numbers.dtype}."
            )

    def read_raw(self, split: str, rows: "npt.NDArray[np.int64]") -> Array:
        """Return the rows with these numbers as the array holds them, gaps included."""
        found: Array = self._array(split).oindex[rows, :]  # type: ignore[assignment]
        return found

    def gap(self, split: str, rows: int) -> Array:
        """Return rows that hold only gaps."""
        array = self._array(split)
        return np.full((rows, array.shape[1]), array.fill_value, array.dtype)

    def done(self) -> frozenset[tuple[str, int]]:
        """Return the split and number of each finished shard."""
        names = (name.rpartition("-") for name in names_in(self._markers))
        return frozenset((split, int(number)) for split, _, number in names)

    def mark(self, split: str, numbers: Iterable[int]) -> None:
        """Mark shards as finished, after all their rows have been written."""
        self._markers.mkdir(parents=True, exist_ok=True)
        for number in numbers:
            (self._markers / f"{split}-{number:06d}").write_bytes(b"")

    def publish(self, report: Mapping[str, Any]) -> StoredFeature:
        """Mark the feature as complete and move it into the store.

        An older one that holds other rows is set aside.
        """
        basis = self._group("r")[REDUCTION].attrs.asdict().get(BASIS)
        attributes: dict[str, Any] = {
            "format": FORMAT,
            "fingerprint": self._fingerprint | ({BASIS: basis} if basis else {}),
            "report": dict(report),
            "metadata": metadata_digests(self.home),
            "complete": True,
        }
        self._group("r+").attrs.put({**attributes, "digest": seal(attributes)})
        self._store.create()
        if self.home != self.target:
            self.set_aside()
            self.home.replace(self.target)  # type: ignore[arg-type]
        remove_tree(self.work)
        published = self._store[self._name]
        self._forget_covered(published)
        return published

    def set_aside(self) -> None:
        """Move what is stored under this name to where `FeatureStore.every` still finds it."""
        try:
            older = StoredFeature(self.target)
        except (MvmrError, *UNREADABLE):
            remove_tree(self.target)  # damaged, or not there
            return
        move_tree(self.target, self._store.superseded / f"{self._name}-{older.digest[:16]}")

    def _forget_covered(self, newer: StoredFeature) -> None:
        """Remove superseded features all of whose rows a newer one holds."""
        for older in self._store.every():
            if older.path.parent == self._store.superseded and covers(newer, older):
                remove_tree(older.path)

    def _group(self, mode: str) -> "zarr.Group":
        return open_group(self.home, mode)

    def _array(self, split: str) -> "zarr.Array[Any]":
        return open_array(self.home / split, "r+")


def _write_array(group: "zarr.Group", name: str, values: Array) -> None:
    row_bytes = max(1, values.nbytes // len(values))
    array = group.create_array(
        name,
        shape=values.shape,
        chunks=(max(1, min(len(values), CHUNK_BYTES // row_bytes)), *values.shape[1:]),
        dtype=values.dtype,
        fill_value=float("nan"),
        compressors=checksums(),
        overwrite=name in group,
    )
    array[...] = values


def chunk_rows(samples_per_shard: int, width: int, itemsize: int) -> int:
    """Return the rows of a chunk, a divisor of those of a tar: the largest that is small enough.

    That is within `CHUNK_BYTES`, unless all such divisors have less than an eighth of these bytes,
    as for a prime number of wide rows; then it is the next larger one.
    """
    fitting = max(1, CHUNK_BYTES // (width * itemsize))
    divisors = [rows for rows in range(1, samples_per_shard + 1) if samples_per_shard % rows == 0]
    small = max(rows for rows in divisors if rows <= fitting)
    larger = [rows for rows in divisors if rows > fitting]
    return min(larger) if larger and 8 * small < fitting else small
