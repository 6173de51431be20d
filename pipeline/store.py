"""The feature store: one Zarr v3 hierarchy a data set, computed once and read for years.

    features.zarr/<feature>            group; attributes: fingerprint, storage, complete, fidelity
    features.zarr/<feature>/<split>    array (samples, width); row i is sample i of the manifest
    features.zarr/<feature>/reduction  group; what maps the representation to what is stored

A tar of the shards is one chunk, or several whole ones where it would exceed `CHUNK_BYTES`, so
that a writer owns its chunks and a reader gets a tar's targets in one read. Every chunk carries
a CRC32C. A chunk that was never written reads as NaN, which no stored feature holds.

A feature is written in a directory of its own, outside the hierarchy, and moved into it by one
rename when it is complete.
"""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import Crc32cCodec

from pipeline.config import digest
from pipeline.errors import DamagedChunkError, StaleFeatureError, StoreError, unknown_name
from pipeline.runtime import remove_tree

FORMAT = 1
CHUNK_BYTES = 64 * 2**20

Array = npt.NDArray[Any]
StoredType = Literal["float16", "float32"]
Fingerprint = Mapping[str, Any]


@dataclass(frozen=True)
class Damage:
    """One place in a store that cannot be trusted."""

    path: str
    reason: str


class StoredFeature:
    """A complete feature, opened for reading.

    Raises StoreError if `path` holds no feature, or an unfinished one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        try:
            self._group = zarr.open_group(path, mode="r", use_consolidated=False)
            attributes = self._group.attrs.asdict()
        except (OSError, ValueError, KeyError) as error:
            raise StoreError(
                f"{path} is not a readable feature ({error}): run `mvmr extract-features --force`."
            ) from error
        if attributes.get("complete") is not True:
            raise StoreError(f"{path} is not complete: run `mvmr extract-features`.")
        recorded: Mapping[str, Any] = attributes
        self.fingerprint: Fingerprint = recorded["fingerprint"]
        self.report: Mapping[str, Any] = recorded["report"]
        self._arrays: dict[str, zarr.Array[Any]] = dict(list(self._group.arrays()))

    @property
    def digest(self) -> str:
        """SHA-256 of the fingerprint."""
        return digest(self.fingerprint)

    @property
    def splits(self) -> dict[str, int]:
        """Number of samples of each split."""
        return {name: array.shape[0] for name, array in sorted(self._arrays.items())}

    @property
    def width(self) -> int:
        """Numbers stored for one image."""
        return int(self._arrays["train"].shape[1])

    @property
    def dtype(self) -> str:
        """Type of a stored number."""
        return str(self._arrays["train"].dtype)

    def read(self, split: str, first: int = 0, last: int | None = None) -> Array:
        """Return rows `first` to `last` (excluded) of a split, (rows, width), as stored.

        Raises DamagedChunkError, naming the file, where a chunk is missing, cut short or fails
        its checksum.
        """
        if split not in self._arrays:
            raise StoreError(f"Feature {self.name!r}: {unknown_name('split', split, self._arrays)}")
        array = self._arrays[split]
        last = array.shape[0] if last is None else last
        try:
            rows: Array = np.asarray(array[first:last])
        except (ValueError, OSError, RuntimeError) as error:
            damage = next(self._damage(split), None)
            if damage is None:
                raise StoreError(f"{self.path}/{split} cannot be read: {error}.") from error
            raise self._damaged(damage) from error
        if np.isnan(rows).any():
            damage = next(self._damage(split), Damage(f"{self.path}/{split}", "holds NaN"))
            raise self._damaged(damage)
        return rows

    def verify(self) -> list[Damage]:
        """Read everything and return what cannot be trusted; an empty list is good news."""
        return [damage for split in self._arrays for damage in self._damage(split)]

    def _damage(self, split: str) -> Iterator[Damage]:
        array = self._arrays[split]
        step = array.chunks[0]
        for number, first in enumerate(range(0, array.shape[0], step)):
            path = f"{self.path}/{split}/c/{number}/0"
            try:
                rows = np.asarray(array[first : first + step])
            except (ValueError, OSError, RuntimeError) as error:
                yield Damage(path, str(error).split("\n")[0])
                continue
            if np.isnan(rows).any():
                missing = not Path(path).exists()
                yield Damage(path, "is missing" if missing else "holds NaN")

    def _damaged(self, damage: Damage) -> DamagedChunkError:
        return DamagedChunkError(
            f"The chunk {damage.path} of feature {self.name!r} cannot be trusted: {damage.reason}. "
            f"Recompute it with `mvmr extract-features --only {self.name} --force`."
        )

    def reduction(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return the arrays and attributes that `FeatureWriter.write_reduction` was given."""
        return _read_reduction(self._group)


class FeatureStore:
    """All features of a data set. The hierarchy is created where it does not exist yet."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self) -> None:
        """Make an empty hierarchy, if there is none."""
        zarr.open_group(self.path, mode="a")

    def names(self) -> list[str]:
        """Return the names of the features, sorted; the complete ones are all there are."""
        return sorted(p.parent.name for p in self.path.glob("*/zarr.json"))

    def __contains__(self, name: str) -> bool:
        return (self.path / name / "zarr.json").exists()

    def __getitem__(self, name: str) -> StoredFeature:
        """Open a feature, or raise StoreError that names those there are."""
        if name not in self:
            names = ", ".join(self.names()) or "none"
            raise StoreError(
                f"There is no feature {name!r} in {self.path} (there: {names}). "
                "Run `mvmr extract-features`."
            )
        return StoredFeature(self.path / name)

    def check(self, name: str, expected: Fingerprint) -> StoredFeature:
        """Open a feature that was made from exactly what `expected` says.

        Raises StaleFeatureError naming each difference.
        """
        feature = self[name]
        differences = list(differing(expected, feature.fingerprint))
        if differences:
            raise StaleFeatureError(
                f"The stored feature {name!r} was made from something else: "
                f"{'; '.join(differences)}. Recompute it with "
                f"`mvmr extract-features --only {name} --force`, or restore what it was made from."
            )
        return feature


def differing(expected: Any, found: Any, path: str = "") -> Iterator[str]:
    """Yield one phrase per leaf in which two JSON values differ."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        for key in sorted(expected.keys() | found.keys()):
            below = f"{path}.{key}" if path else key
            yield from differing(expected.get(key), found.get(key), below)
    elif expected != found:
        yield f"{path} is now {_short(expected)}, was {_short(found)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:18]}...{text[-18:]}"


class FeatureWriter:
    """A feature in the making, in a directory of its own that survives an interrupted run."""

    def __init__(self, path: Path, fingerprint: Fingerprint) -> None:
        self.path = path
        self._fingerprint = fingerprint
        self._group = zarr.open_group(path / "feature", mode="a", use_consolidated=False)

    def write_reduction(self, arrays: Mapping[str, Array], attributes: Mapping[str, Any]) -> None:
        """Store what maps the representation to the stored numbers; once, before any row."""
        group = self._group.create_group("reduction", overwrite=True)
        for name, values in arrays.items():
            group.create_array(
                name, data=values, fill_value=float("nan"), compressors=[Crc32cCodec()]
            )
        group.attrs.update({**attributes, "complete": True})

    def has_reduction(self) -> bool:
        """Whether `write_reduction` has been through."""
        return "reduction" in self._group and bool(
            self._group["reduction"].attrs.asdict().get("complete")
        )

    def reduction(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return the arrays and attributes that `write_reduction` was given."""
        return _read_reduction(self._group)

    def create_split(
        self, split: str, *, samples: int, width: int, dtype: StoredType, samples_per_shard: int
    ) -> None:
        """Create the array of a split, unless it is there from an interrupted run."""
        if split in self._group:
            return
        rows = chunk_rows(min(samples_per_shard, samples), width, np.dtype(dtype).itemsize)
        self._group.create_array(
            split,
            shape=(samples, width),
            chunks=(rows, width),
            dtype=dtype,
            fill_value=float("nan"),
            compressors=[Crc32cCodec()],
        )

    def chunk_rows(self, split: str) -> int:
        """Return the number of rows of a chunk of `split`."""
        return self._array(split).chunks[0]

    def write_rows(self, split: str, first: int, rows: Array) -> None:
        """Write whole chunks, beginning at row `first`.

        Raises StoreError if a number is not finite in the stored type.
        """
        array = self._array(split)
        with np.errstate(over="ignore"):
            stored = rows.astype(array.dtype)
        if not np.isfinite(stored).all():
            bad = int(np.flatnonzero(~np.isfinite(stored).all(axis=1))[0])
            reason = (
                f"is beyond the range of {array.dtype}; set its dtype to float32"
                if np.isfinite(rows[bad]).all()
                else "is not finite"
            )
            raise StoreError(f"A number of sample {first + bad} of {split} {reason}.")
        array[first : first + len(rows)] = stored

    def _array(self, split: str) -> "zarr.Array[Any]":
        array = self._group[split]
        if not isinstance(array, zarr.Array):
            raise StoreError(f"{self.path} has no array {split!r}; remove {self.path}.")
        return array

    def publish(self, store: FeatureStore, name: str, report: Mapping[str, Any]) -> StoredFeature:
        """Mark the feature complete and move it into the store in place of an older one."""
        self._group.attrs.update(
            {
                "format": FORMAT,
                "fingerprint": dict(self._fingerprint),
                "report": dict(report),
                "complete": True,
            }
        )
        target = store.path / name
        store.create()
        remove_tree(target)
        (self.path / "feature").rename(target)
        shutil.rmtree(self.path, ignore_errors=True)
        return store[name]


def chunk_rows(samples_per_shard: int, width: int, itemsize: int) -> int:
    """Return the largest number of rows that divides a shard and fits in `CHUNK_BYTES`."""
    fitting = max(1, CHUNK_BYTES // (width * itemsize))
    return next(
        rows
        for rows in range(min(samples_per_shard, fitting), 0, -1)
        if samples_per_shard % rows == 0
    )


def _read_reduction(group: "zarr.Group") -> tuple[dict[str, Array], dict[str, Any]]:
    reduction = group["reduction"]
    if not isinstance(reduction, zarr.Group):
        raise StoreError(f"{group.store_path} has no reduction: extract the feature again.")
    arrays = {name: np.asarray(array[...]) for name, array in reduction.arrays()}
    return arrays, reduction.attrs.asdict()
