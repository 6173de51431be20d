"""Stored features as arrays, and rows of the user's own beside them."""

from collections.abc import Iterator, Mapping
from os import fspath
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from mvmr.arrays import ArrayLike, PathText, as_tensor
from mvmr.given_arguments import NotBlank
from mvmr.public_calls import public
from mvmr.text_tables import html_table, text_table
from pipeline.base.errors import DataError, StaleFeatureError
from pipeline.base.locations import Location, location
from pipeline.datasets.source import Split
from pipeline.features.putting import GIVEN, kind_of, put_rows
from pipeline.features.store import FeatureStore as FeatureHierarchy
from pipeline.features.store import StoredFeature
from pipeline.features.store.integrity import METADATA
from pipeline.shards.manifest import Manifest
from pipeline.shards.packing import packed_manifests
from stages.experiment.paths import DatasetLayout

COLUMNS = ("feature", "width", "of", "type", "images", "dCor error")


@runtime_checkable
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

    def require_current(self) -> None:
        """Raise DataError if the images have changed since they were opened."""
        ...


class FeatureStore(FeatureHierarchy):
    """The stored features of a data set, by name.

    `path` is the folder of a packed data set or the `features.zarr` in it, on disk or at a URL.
    Raises DataError if there is neither.

        store = mvmr.FeatureStore("data/photos")
        store["clip"]["train"][10:20]           # rows (10, width), as NumPy
    """

    @public
    def __init__(self, path: PathText) -> None:
        place = location(fspath(path))
        data = DatasetLayout(place)
        if not (data.shards.exists() or data.features.exists() or (place / METADATA).exists()):
            raise DataError(
                f"There is neither a packed data set nor a feature store at {fspath(path)!r}: "
                "mvmr.pack(images, path) makes one, mvmr.extract(features, data) fills its store."
            )
        super().__init__(place if (place / METADATA).exists() else data.features)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    @public
    def __getitem__(self, name: str) -> StoredFeature:
        """Open a feature; raises StoreError with the names of all others if there is none.

        Raises StaleFeatureError if its rows are of other images than those packed beside it.
        """
        feature = super().__getitem__(name)
        require_these_shards(feature, self._packed())
        return feature

    def _packed(self) -> Mapping[Split, Manifest]:
        """Return the manifests of the data set around the store; none if it stands alone."""
        return packed_manifests(DatasetLayout(self.path.parent).shards)

    def keys(self) -> list[str]:
        """Return the names of all features."""
        return self.names()

    @public
    def put(
        self,
        name: str,
        rows: Mapping[str, ArrayLike] | Mapping[Split, ArrayLike],
        data: Packed,
        *,
        made_from: Annotated[str, NotBlank()],
        dtype: Literal["float32", "float16", "bfloat16"] = "float16",
        replace: bool = False,
    ) -> StoredFeature:
        """Store rows that were computed elsewhere, one per image of each split, and return them.

        `rows` maps every split of `data` to an array (images, width), row i for `data[split][i]`.
        `made_from` says, in words, what they were computed by: experiments know them by that, as
        `features: {name: {kind: given, made_from: ...}}`. Rows that were put under that name before
        are replaced and kept as superseded; so is a feature that was computed, with `replace`.
        Raises DataError for rows that do not fit the images, or that `dtype` does not hold: float16
        has three digits, for numbers from 6e-5 to 65,504, and integers up to 2,048. Raises
        StoreError for the name of a computed feature without `replace`.
        """
        data.require_current()
        arrays: dict[str, ArrayLike] = {str(split): array for split, array in rows.items()}
        given: dict[Split, np.ndarray[Any, Any]] = {}
        for split, manifest in data.manifests.items():
            if split not in arrays:
                raise DataError(f"There are no rows for {split}: give one per image of each split.")
            rows_of_split = as_tensor(arrays[split], f"The rows of {split}").detach().cpu()
            _require_exact(rows_of_split, dtype, split)
            given[split] = _whole(_as_numpy(rows_of_split), manifest)
        extra = sorted(set(arrays) - set(given))
        if extra:
            raise DataError(f"The data set has no split {extra[0]!r}; it has {', '.join(given)}.")
        return put_rows(
            FeatureHierarchy(self.path),
            name,
            given,
            data.shards,
            data.work,
            made_from=made_from,
            stored_type=dtype,
            replace=replace,
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


def require_these_shards(feature: StoredFeature, manifests: Mapping[Split, Manifest]) -> None:
    """Raise StaleFeatureError if a feature was made from other images than those of `manifests`."""
    made_from, now = feature.fingerprint["shards"], {s: m.digest for s, m in manifests.items()}
    if manifests and made_from != now:
        remedy = "call mvmr.extract with it again, which computes only what is new"
        if kind_of(feature) == GIVEN:
            remedy = "put rows of these images under its name"
        raise StaleFeatureError(
            f"The feature {feature.name!r} is not of the images that are in the shards now: "
            f"{remedy}."
        )


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


def _require_exact(rows: Tensor, dtype: str, split: str) -> None:
    """Raise DataError for integers, which mean themselves, that are not stored as they are."""
    if rows.is_floating_point() or rows.is_complex():
        return
    changed = rows.to(getattr(torch, dtype)).double() != rows.double()
    if changed.any():
        wider = "" if dtype == "float32" else 'pass dtype="float32", '
        raise DataError(
            f"{dtype} does not hold the integer {rows[changed][0]} of {split} as it is; float32 "
            f"holds integers up to 16,777,216: {wider}subtract an offset, or scale them as floats."
        )


def _as_numpy(rows: Tensor) -> "np.ndarray[Any, Any]":
    """Return rows as an array; NumPy has no bfloat16."""
    return (rows.float() if rows.dtype == torch.bfloat16 else rows).numpy()


def _whole(rows: "np.ndarray[Any, Any]", manifest: Manifest) -> "np.ndarray[Any, Any]":
    """Return rows of all samples, from those of the valid ones; the others are zeros."""
    split = manifest.split
    if rows.ndim != 2 or len(rows) != manifest.valid or not rows.shape[1]:
        raise DataError(
            f"Expected rows ({manifest.valid:,}, width) for {split}, one per image; found "
            f"{rows.shape}."
        )
    if not np.issubdtype(rows.dtype, np.number) or np.iscomplexobj(rows):
        raise DataError(f"The rows of {split} must be real numbers; found {rows.dtype}.")
    if not np.isfinite(rows).all():
        raise DataError(f"The rows of {split} must be finite; there is NaN or infinity among them.")
    whole = np.zeros((manifest.samples, rows.shape[1]), np.promote_types(rows.dtype, np.float32))
    whole[[i for i in range(manifest.samples) if i not in manifest.invalid]] = rows
    return whole
