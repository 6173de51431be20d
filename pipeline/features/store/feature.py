"""Reading a store: opening its features, and checking what they were made from."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.base.damage import Damage
from pipeline.base.digests import digest
from pipeline.base.errors import DamagedChunkError, StaleFeatureError, StoreError, unknown_name
from pipeline.base.locations import Location, names_in
from pipeline.base.progress import Progress
from pipeline.features.encoding import ARRAY_TYPES, Array, Encoding
from pipeline.features.store.hierarchy import open_group
from pipeline.features.store.integrity import (
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
from pipeline.representations.storing import StoredType

if TYPE_CHECKING:
    import zarr

Fingerprint = Mapping[str, Any]


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
        """SHA-256 of the fingerprint."""
        return digest(self.fingerprint)

    @property
    def splits(self) -> dict[str, int]:
        """Number of samples of each split."""
        return {name: array.shape[0] for name, array in sorted(self._arrays.items())}

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

    def read(self, split: str, first: int = 0, last: int | None = None) -> Array:
        """Return rows `first` to `last` (excluded) of a split, (rows, width), decoded.

        Raises DamagedChunkError, naming the file, if a chunk is missing or cut short, or fails
        its checksum; StoreError if there is no such split.
        """
        if split not in self._arrays:
            raise StoreError(f"Feature {self.name!r}: {unknown_name('split', split, self._arrays)}")
        array = self._arrays[split]
        last = array.shape[0] if last is None else last
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

    @cached_property
    def _encoding(self) -> Encoding:
        scaled = self.stored_type == "int8"
        return Encoding.load(self.stored_type, self.reduction()[0] if scaled else {})

    def _damaged(self, damage: Damage) -> DamagedChunkError:
        return DamagedChunkError(
            f"{damage.path} of feature {self.name!r} cannot be trusted: "
            f"{damage.reason.rstrip('.')}. Recompute it with `mvmr store verify --repair`."
        )

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


class FeatureStore:
    """All features of a data set, in one Zarr hierarchy."""

    def __init__(self, path: Location) -> None:
        self.path = path

    def create(self) -> None:
        """Create an empty hierarchy if there is none."""
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


def check_fingerprint(name: str, expected: Fingerprint, found: Fingerprint) -> None:
    """Raise StaleFeatureError, naming each difference, unless both fingerprints are equal."""
    differences = list(differing(expected, found))
    if differences:
        raise StaleFeatureError(
            f"The stored feature {name!r} was made from something else: "
            f"{'; '.join(differences)}. Recompute it with "
            f"`mvmr extract-features --only {name} --force` (under DVC: `dvc repro --force "
            f"--single-item extract@{name}`), or restore what it was made from."
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
