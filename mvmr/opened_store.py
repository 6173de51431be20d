"""Stored features as arrays, and rows of the user's own beside them."""

from collections.abc import Iterator, Mapping
from os import fspath
from typing import Any, Literal, Protocol

import numpy as np

from mvmr.arrays import ArrayLike, PathText, as_tensor
from mvmr.text_tables import html_table, text_table
from pipeline.base.errors import DataError
from pipeline.base.locations import Location, location
from pipeline.datasets.source import Split
from pipeline.features.putting import put_rows
from pipeline.features.store import FeatureStore as FeatureHierarchy
from pipeline.features.store import StoredFeature
from pipeline.shards.manifest import Manifest

COLUMNS = ("feature", "width", "of", "type", "images", "dCor error")


class Packed(Protocol):
    """Packed images, as `mvmr.Dataset` has them."""

    @property
    def manifests(self) -> Mapping[Split, Manifest]:
        """The manifest of each split."""
        ...

    @property
    def shards(self) -> Location:
        """The folder of the shards."""
        ...

    @property
    def work(self) -> Location:
        """The folder of unfinished features."""
        ...


class FeatureStore(FeatureHierarchy):
    """The stored features of a data set, by name.

    `path` is the folder of a packed data set or the `features.zarr` in it, on disk or at a URL.

        store = mvmr.FeatureStore("data/photos")
        store["clip"]["train"][10:20]           # rows (10, width), as NumPy
    """

    def __init__(self, path: PathText) -> None:
        place = location(fspath(path))
        inner = place / "features.zarr"
        super().__init__(inner if inner.exists() else place)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    def keys(self) -> list[str]:
        """Return the names of all features."""
        return self.names()

    def put(
        self,
        name: str,
        rows: Mapping[str, ArrayLike] | Mapping[Split, ArrayLike],
        data: Packed,
        *,
        made_from: str,
        dtype: Literal["float32", "float16", "bfloat16"] = "float16",
    ) -> StoredFeature:
        """Store rows that were computed elsewhere, one per image of each split, and return them.

        `rows` maps every split of `data` to an array (images, width), row i for `data[split][i]`.
        `made_from` says, in words, what they were computed by: experiments know them by that, as
        `features: {name: {kind: given, made_from: ...}}`. A feature of that name that was made from
        something else is kept as superseded. Raises DataError for rows that do not fit the images.
        """
        if not made_from.strip():
            raise DataError("made_from must say what the rows were computed by; it is empty.")
        arrays: dict[str, ArrayLike] = {str(split): array for split, array in rows.items()}
        given: dict[Split, np.ndarray[Any, Any]] = {}
        for split, manifest in data.manifests.items():
            if split not in arrays:
                raise DataError(f"There are no rows for {split}: give one per image of each split.")
            given[split] = _whole(
                as_tensor(arrays[split], f"The rows of {split}").numpy(), manifest
            )
        extra = sorted(set(arrays) - set(given))
        if extra:
            raise DataError(f"The data set has no split {extra[0]!r}; it has {', '.join(given)}.")
        return put_rows(
            self, name, given, data.shards, data.work, made_from=made_from, stored_type=dtype
        )

    def __repr__(self) -> str:
        return text_table(self._rows(), title=f"FeatureStore {self.path}")

    def _repr_html_(self) -> str:
        return html_table(self._rows(), title=str(self.path))

    def _rows(self) -> list[tuple[str, ...]]:
        return [COLUMNS, *(_row(feature) for feature in self._readable())]

    def _readable(self) -> Iterator[StoredFeature]:
        wanted = set(self.names())
        return (f for f in self.every() if f.path.parent == self.path and f.name in wanted)


def _row(feature: StoredFeature) -> tuple[str, ...]:
    fidelity = feature.report["fidelity"]
    return (
        feature.name,
        str(feature.width),
        str(feature.report["original_width"]),
        feature.stored_type,
        f"{sum(feature.splits.values()):,}",
        f"{fidelity['dcor_error_max']:.1e}",
    )


def _whole(rows: "np.ndarray[Any, Any]", manifest: Manifest) -> "np.ndarray[Any, Any]":
    """Return rows of all samples, from those of the valid ones; the others are zeros."""
    split = manifest.split
    if rows.ndim != 2 or len(rows) != manifest.valid:
        raise DataError(
            f"Expected rows ({manifest.valid:,}, width) for {split}, one per image; found "
            f"{rows.shape}."
        )
    if not np.issubdtype(rows.dtype, np.number) or np.iscomplexobj(rows):
        raise DataError(f"The rows of {split} must be real numbers; found {rows.dtype}.")
    if not np.isfinite(rows).all():
        raise DataError(f"The rows of {split} must be finite; there is NaN or infinity among them.")
    whole = np.zeros((manifest.samples, rows.shape[1]), np.float32)
    whole[[i for i in range(manifest.samples) if i not in manifest.invalid]] = rows
    return whole
