"""Reading a store: opening its features, and checking what they were made from."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.base.arguments import place_of, require_place
from pipeline.base.damage import Damage
from pipeline.base.digests import digest
from pipeline.base.errors import (
    ArgumentError,
    DamagedChunkError,
    MvmrError,
    StaleFeatureError,
    StoreError,
    unknown_name,
)
from pipeline.base.locations import Location, move_tree, names_in
from pipeline.base.progress import Progress
from pipeline.base.text import counted
from pipeline.features.encoding import ARRAY_TYPES, Array, Encoding
from pipeline.features.store.hierarchy import open_array, open_group
from pipeline.features.store.integrity import (
    IDENTITIES,
    METADATA,
    REDUCTION,
    UNREADABLE,
    array_damage,
    feature_damage,
    has_gaps,
    metadata_damage,
    reason_of,
    root_attributes,
)
from pipeline.images.stored_views import StoredViewOptions
from pipeline.representations.storing import StoredType

if TYPE_CHECKING:
    import zarr

Fingerprint = Mapping[str, Any]
# In a fingerprint: what a reduction was fitted on, and which views are stored.
BASIS, VIEWS = "basis", "views"
VIEW = "view-"  # begins the names of arrays of stored views
SUPERSEDED = "superseded"
# Arrays beside a reduction.
COMPONENT_MEAN, COMPONENT_DEVIATION = "component_mean", "component_deviation"
TRIAL = "trial"  # in a report: what the representation makes of trial pictures, in a few numbers


class StoredFeature:
    """A complete feature, opened for reading.

    Raises StoreError if `path` holds no feature, an unfinished one, or damaged metadata.
    """

    def __init__(self, path: Location) -> None:
        self.path = path
        self.name = path.name
        try:
            recorded: Mapping[str, Any] = root_attributes(path)
            complete = recorded["complete"]
            metadata = recorded["metadata"] if complete else {}
        except UNREADABLE as error:
            raise self._damaged(Damage(path / METADATA, reason_of(error), "")) from error
        if complete is not True:
            raise StoreError(f"{path} is not complete: run `mvmr extract-features`.")
        damage = next(metadata_damage(path, metadata), None)
        if damage is not None:
            raise self._damaged(damage)
        self.fingerprint: Fingerprint = recorded["fingerprint"]
        self.report: Mapping[str, Any] = recorded["report"]
        group = open_group(path)
        self._arrays: dict[str, zarr.Array[Any]] = dict(list(group.arrays()))

    @property
    def digest(self) -> str:
        """SHA-256 of the fingerprint, and of the rows if they were computed elsewhere."""
        rows = self.report.get("rows")
        return digest(self.fingerprint) if rows is None else digest([self.fingerprint, rows])

    @property
    def parts(self) -> dict[str, int]:
        """Number of rows of each array: of each split, and of each view of training images."""
        return {name: array.shape[0] for name, array in sorted(self._arrays.items())}

    @property
    def splits(self) -> dict[str, int]:
        """Number of samples of each split."""
        return {n: rows for n, rows in self.parts.items() if number_of_view(n) is None}

    @property
    def views(self) -> StoredViewOptions | None:
        """The stored views of training images, None if there are none."""
        recorded = self.fingerprint.get(VIEWS)
        if recorded is None:
            return None
        drawn = {
            name: value
            for name, value in recorded.items()
            if name in StoredViewOptions.model_fields
        }
        return StoredViewOptions.model_validate(drawn)

    @property
    def width(self) -> int:
        """Numbers stored per image."""
        return int(self._arrays["train"].shape[1])

    @property
    def stored_type(self) -> StoredType:
        """Type of the stored numbers, as named in the experiment file."""
        found: StoredType = self.fingerprint["dtype"]
        return found

    @property
    def dtype(self) -> str:
        """Type of the numbers that `read` returns."""
        return ARRAY_TYPES[self.stored_type].read_as

    @property
    def row_bytes(self) -> int:
        """Bytes of a row that `read` returns."""
        return self.width * int(np.dtype(self.dtype).itemsize)

    def read(self, split: str, first: int = 0, last: int | None = None) -> Array:
        """Return rows `first` to `last` (excluded) of a split, (rows, width), decoded.

        `view_part(k)` instead of a split is stored view k of the training images. Raises
        DamagedChunkError, naming the file, if a chunk is missing or cut short, or fails its
        checksum; StoreError if there is no such split; ArgumentError for other rows.
        """
        if split not in self._arrays:
            raise StoreError(f"Feature {self.name!r}: {unknown_name('split', split, self._arrays)}")
        array = self._arrays[split]
        last = array.shape[0] if last is None else last
        if not 0 <= first <= last <= array.shape[0]:
            raise ArgumentError(
                f"{split} of feature {self.name!r} has {array.shape[0]:,} rows; asked for "
                f"{first:,} to {last:,}."
            )
        try:
            numbers: Array = np.asarray(array[first:last])
        except UNREADABLE as error:
            damage = next(array_damage(self.path, split), None)
            if damage is None:
                raise StoreError(f"{self.path}/{split} cannot be read: {error}.") from error
            raise self._damaged(damage) from error
        if has_gaps(numbers):
            unnamed = Damage(self.path / split, "holds a gap", split)
            raise self._damaged(next(array_damage(self.path, split), unnamed))
        return self._encoding.decode(numbers)

    def __getitem__(self, split: str) -> "StoredRows":
        return StoredRows(self, split)

    def __repr__(self) -> str:
        rows = ", ".join(f"{count:,} {split}" for split, count in self.splits.items())
        if self.views is not None:
            rows += f", {counted(self.views.count, 'views')} of train"
        return f"{self.name}: {self.width} numbers, {self.stored_type}, {rows} at {self.path}"

    @cached_property
    def _encoding(self) -> Encoding:
        scaled = self.stored_type == "int8"
        return Encoding.load(self.stored_type, self.reduction()[0] if scaled else {})

    def _damaged(self, damage: Damage) -> DamagedChunkError:
        return DamagedChunkError(
            f"{damage.path} of feature {self.name!r} cannot be trusted: "
            f"{damage.reason.rstrip('.')}. Recompute it with `mvmr store verify --repair`."
        )

    def statistics(self) -> tuple[Array, Array]:
        """Return mean and standard deviation (width,) of each stored number, float32.

        They were measured once, with the reduction, and stay when images come in. Raises
        StoreError if the feature was stored by a version that did not measure them.
        """
        arrays, _ = self.reduction()
        if COMPONENT_MEAN not in arrays:
            raise StoreError(
                f"The stored feature {self.name!r} has no statistics of its numbers: compute it "
                f"again with `mvmr extract-features --only {self.name} --force`."
            )
        return arrays[COMPONENT_MEAN], arrays[COMPONENT_DEVIATION]

    @property
    def recipe(self) -> Fingerprint:
        """What a row depends on besides its image or view."""
        return recipe_of(self.fingerprint)

    def raw(self, split: str, first: int, last: int) -> Array:
        """Return rows of a split as the array holds them, (rows, width), not decoded.

        Raises DamagedChunkError or ValueError if they cannot be read; gaps are not looked for.
        """
        return np.asarray(self._arrays[split][first:last])

    def chunk_rows(self, split: str) -> int:
        """Return the number of rows per chunk of a split."""
        return int(self._arrays[split].chunks[0])

    def identities(self, split: str) -> "npt.NDArray[np.uint8] | None":
        """Return which image each row of a split is of (samples, 16), if that was recorded.

        Raises DamagedChunkError if it is damaged.
        """
        part = f"{IDENTITIES}/{split}"
        if not (self.path / part / METADATA).exists():
            return None
        try:
            found: npt.NDArray[np.uint8] = np.asarray(open_array(self.path / part)[...])
        except UNREADABLE as error:
            raise self._damaged(Damage(self.path / part, reason_of(error), part)) from error
        if has_gaps(found):
            raise self._damaged(Damage(self.path / part, "is missing", part))
        return found

    def reduction(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return the arrays and attributes that `FeatureWriter.write_reduction` stored.

        Raises DamagedChunkError if they are damaged.
        """
        group = open_group(self.path)
        try:
            return read_reduction(group)
        except UNREADABLE as error:
            own = (d for d in feature_damage(self.path) if d.part.startswith(REDUCTION))
            unnamed = Damage(self.path / REDUCTION, str(error), REDUCTION)
            raise self._damaged(next(own, unnamed)) from error


class StoredRows:
    """The rows (samples, width) of one split, read when they are asked for: `rows[10:20]`.

    Raises StoreError if there is no such split.
    """

    def __init__(self, feature: StoredFeature, split: str) -> None:
        if split not in feature.splits:
            known = unknown_name("split", str(split), feature.splits)
            raise StoreError(f"Feature {feature.name!r}: {known}")
        self._feature, self._split = feature, split
        self.shape = (feature.splits[split], feature.width)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, number: int | slice) -> Array:
        """Return a row (width,), or the rows of a slice, decoded."""
        require_place(number, "Stored rows")
        if isinstance(number, slice):
            chosen = range(len(self))[number]
            if not chosen:
                return self._feature.read(self._split, 0, 0)
            low, high = min(chosen[0], chosen[-1]), max(chosen[0], chosen[-1]) + 1
            rows = self._feature.read(self._split, low, high)
            return rows[[row - low for row in chosen]]
        row = place_of(number, len(self), f"rows of {self._split} in {self._feature.name!r}")
        first: Array = self._feature.read(self._split, row, row + 1)[0]
        return first

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.asarray(self._feature.read(self._split), dtype)

    def __repr__(self) -> str:
        return f"{self._feature.name}, {self._split}: {self.shape[0]:,} rows of {self.shape[1]}"


class FeatureStore:
    """All features of a data set, in one Zarr hierarchy."""

    def __init__(self, path: Location) -> None:
        self.path = path

    def create(self) -> None:
        """Create an empty hierarchy if there is none, which others may do at the same time."""
        from zarr.errors import ContainsGroupError

        with suppress(ContainsGroupError):  # there was none, and now there is
            open_group(self.path, "a")

    def names(self) -> list[str]:
        """Return the sorted names of all features, including damaged ones."""
        return sorted(name for name in names_in(self.path) if name != METADATA and name in self)

    def __contains__(self, name: str) -> bool:
        """Whether there is such a feature, intact or damaged; unfinished ones do not count."""
        try:
            return root_attributes(self.path / name).get("complete") is True
        except (FileNotFoundError, NotADirectoryError):
            return any((self.path / name / part).exists() for part in (REDUCTION, "train"))
        except UNREADABLE:
            return True

    def __getitem__(self, name: str) -> StoredFeature:
        """Open a feature; if there is none, raise StoreError with the names of all others."""
        if name not in self:
            names = ", ".join(self.names()) or "none"
            raise StoreError(
                f"There is no feature {name!r} in {self.path} (there: {names}). "
                "Run `mvmr extract-features`."
            )
        return StoredFeature(self.path / name)

    def check(self, name: str, expected: Fingerprint) -> StoredFeature:
        """Open a feature whose fingerprint must equal `expected`.

        Raises StaleFeatureError, naming each difference, if it does not.
        """
        feature = self[name]
        check_fingerprint(name, expected, feature.fingerprint)
        return feature

    @property
    def superseded(self) -> Location:
        """Where complete features lie that others of the same name have replaced."""
        return self.path.parent / SUPERSEDED

    def every(self) -> Iterator[StoredFeature]:
        """Yield all features that can be opened, including those that were superseded."""
        for place in (self.path, self.superseded):
            for name in sorted(names_in(place)):
                with suppress(MvmrError, *UNREADABLE):
                    yield StoredFeature(place / name)

    def of_name(self, name: str) -> Iterator[StoredFeature]:
        """Yield the feature of a name, and those that were superseded by it."""
        for feature in self.every():
            superseded = feature.path.parent == self.superseded
            if feature.name.rpartition("-")[0] == name if superseded else feature.name == name:
                yield feature

    def restore(self, name: str, expected: Fingerprint) -> StoredFeature | None:
        """Put a superseded feature with this fingerprint in its place again, if there is one."""
        for older in self.of_name(name):
            superseded = older.path.parent == self.superseded
            if superseded and without_basis(older.fingerprint) == expected:
                if name in self:
                    place = self.superseded / f"{name}-{self[name].digest[:16]}"
                    move_tree(self.path / name, place)
                move_tree(older.path, self.path / name)
                return self[name]
        return None

    def verify(self, *, progress: Progress | None = None) -> dict[str, list[Damage]]:
        """Read every feature and return all damage, by name of the feature.

        Damage to the store's own metadata file is listed under that file's name.
        """
        found = {name: feature_damage(self.path / name, progress) for name in self.names()}
        try:
            open_group(self.path)
        except UNREADABLE as error:
            found[METADATA] = [Damage(self.path / METADATA, reason_of(error), "")]
        return found


def view_part(number: int) -> str:
    """Return the name of the array of a stored view, from 0."""
    return f"{VIEW}{number}"


def number_of_view(part: str) -> int | None:
    """Return the number of the stored view that an array is of, None if it is of a split."""
    return int(part.removeprefix(VIEW)) if part.startswith(VIEW) else None


def recipe_of(fingerprint: Fingerprint) -> dict[str, Any]:
    """Return what a row depends on besides its image or view: all but shards, basis and views."""
    apart = ("shards", BASIS, VIEWS)
    return {name: value for name, value in fingerprint.items() if name not in apart}


def without_basis(fingerprint: Fingerprint) -> dict[str, Any]:
    """Return what can be expected of a fingerprint before the feature has been fitted."""
    return {name: value for name, value in fingerprint.items() if name != BASIS}


def check_fingerprint(name: str, expected: Fingerprint, found: Fingerprint) -> None:
    """Raise StaleFeatureError, naming each difference, unless both fingerprints are equal.

    The basis of a reduction is not expected: it is what the feature was first fitted on.
    """
    found = without_basis(found)
    if expected == found:
        return
    if recipe_of(expected) == recipe_of(found) and expected.get(VIEWS) != found.get(VIEWS):
        differences = "; ".join(differing(expected.get(VIEWS), found.get(VIEWS), VIEWS))
        raise StaleFeatureError(
            f"The stored feature {name!r} has other views: {differences}. Run "
            f"`mvmr extract-features --only {name}`, which computes only those that are missing."
        )
    if recipe_of(expected) == recipe_of(found):
        raise StaleFeatureError(
            f"The stored feature {name!r} is not of the images that are in the shards now: run "
            f"`mvmr extract-features --only {name}`, which computes only those that are new."
        )
    raise StaleFeatureError(
        f"The stored feature {name!r} was made from something else: "
        f"{'; '.join(differing(expected, found))}. Run `mvmr extract-features --only {name}`, "
        "or restore what it was made from."
    )


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


def read_reduction(group: "zarr.Group") -> tuple[dict[str, Array], dict[str, Any]]:
    """Return the arrays and attributes of a feature's reduction; ValueError if it is damaged."""
    reduction: Any = group[REDUCTION]
    if not hasattr(reduction, "arrays"):
        raise StoreError(f"{group.store_path} has no reduction: extract the feature again.")
    arrays = {name: np.asarray(array[...]) for name, array in reduction.arrays()}
    missing = [name for name, values in arrays.items() if has_gaps(values)]
    if missing:
        raise ValueError(f"{REDUCTION}/{missing[0]} has missing chunks")
    return arrays, reduction.attrs.asdict()
