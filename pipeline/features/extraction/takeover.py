"""Taking over the rows of images that a store has already, from whatever arrangement of them.

A feature gives its rows if it was made alike: by the same representation, weights, preparation,
reduction and stored type, with the same basis. Its name, its shards and its data set do not
matter. Copies are exact; a damaged chunk gives nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.base.errors import MvmrError
from pipeline.base.progress import Progress
from pipeline.features.encoding import Array, Encoding
from pipeline.features.extraction.fingerprint import gives_same_vectors
from pipeline.features.extraction.task import FeatureTask
from pipeline.features.store import FeatureStore, FeatureWriter, StoredFeature, recipe_of
from pipeline.features.store.feature import BASIS
from pipeline.features.store.identities import Identities, Places, places_of
from pipeline.features.store.integrity import UNREADABLE, gaps_in
from pipeline.shards.manifest import Manifest

Mask = npt.NDArray[np.bool_]
# Rows are gathered in blocks of this size, so that a chunk is read once a block.
BLOCK_BYTES = 512 * 2**20


def donors_of(feature: FeatureTask, stores: Sequence[FeatureStore]) -> list[StoredFeature]:
    """Return the features that were made as this one is to be, perhaps with other bases."""
    recipe = recipe_of(feature.fingerprint)
    alike = (found for store in stores for found in store.every() if found.recipe == recipe)
    return [found for found in alike if gives_same_vectors(found, feature.options, feature.trial)]


def of_one_basis(feature: FeatureTask, donors: Sequence[StoredFeature]) -> list[StoredFeature]:
    """Return the donors with the basis of what is begun of a feature, or else of the first one."""
    if not donors or not feature.is_fitted:
        return list(donors)
    writer = feature.writer()
    begun = writer.reduction()[1].get(BASIS) if writer.has_reduction() else None
    basis = begun or basis_of(donors[0])
    return [found for found in donors if basis_of(found) == basis]


def basis_of(feature: StoredFeature) -> str:
    """Return what names the basis of a fitted feature."""
    named = feature.fingerprint.get(BASIS)
    return str(named or f"reduction {feature.reduction()[1]['digest']}")


def adopt_reduction(feature: FeatureTask, donor: StoredFeature) -> None:
    """Store the reduction of a donor as that of a feature to be made."""
    arrays, attributes = donor.reduction()
    kept = {name: v for name, v in attributes.items() if name not in ("digest", "complete")}
    if feature.is_fitted:
        kept[BASIS] = basis_of(donor)
    feature.writer().write_reduction(arrays, kept)


@dataclass(frozen=True)
class Taken:
    """Which rows (samples,) of an array of a feature were taken over, and how many are to compute.

    Rows of images that are gone may be among those that were taken over.
    """

    kept: Mask
    left: int


def take_over(
    feature: FeatureTask,
    donors: Sequence[StoredFeature],
    parts: Mapping[str, Manifest],
    identities: Mapping[str, Identities],
    progress: Progress,
) -> dict[str, Taken]:
    """Copy the rows that donors have, by array, and mark the shards that are thereby finished."""
    writer = feature.writer()
    encoding = Encoding.load(feature.options.dtype, writer.reduction()[0])
    places = {part: places_of(identities[part], donors) for part in parts}
    total = sum(int(found.found.sum()) for found in places.values())
    if not total:
        return {
            part: Taken(np.zeros(manifest.samples, bool), manifest.valid)
            for part, manifest in parts.items()
        }
    progress.start(f"take over {feature.name}", total, "rows")
    return {
        part: _Copier(writer, part, manifest, places[part], encoding, progress).copy()
        for part, manifest in parts.items()
    }


class _Copier:
    """Copies the rows of one array."""

    def __init__(
        self,
        writer: FeatureWriter,
        part: str,
        manifest: Manifest,
        places: Places,
        encoding: Encoding,
        progress: Progress,
    ) -> None:
        self._writer, self._part = writer, part
        self._manifest, self._places = manifest, places
        self._progress = progress
        self._invalid = np.zeros(manifest.samples, bool)
        self._invalid[sorted(manifest.invalid)] = True
        gap = writer.gap(part, 1)
        self._zero = encoding.encode(np.zeros(gap.shape, np.float32))
        self._row_bytes = gap.nbytes

    def copy(self) -> Taken:
        """Copy all rows that are found, and return which are kept."""
        size = self._manifest.samples_per_shard
        kept = self._places.found.copy()
        done = {number for name, number in self._writer.done() if name == self._part}
        for numbers in self._blocks(done):
            first = numbers[0] * size
            last = min((numbers[-1] + 1) * size, self._manifest.samples)
            kept[first:last] = self._copied(first, last)
            missing = ~(kept | self._invalid)
            whole = [n for n in numbers if not missing[n * size : (n + 1) * size].any()]
            self._writer.mark(self._part, whole)
        return Taken(kept, int((~(kept | self._invalid)).sum()))

    def _blocks(self, done: set[int]) -> Iterator[list[int]]:
        """Yield runs of shards with rows to copy, or without a valid one, that are not done."""
        size = self._manifest.samples_per_shard
        most = max(1, BLOCK_BYTES // (self._row_bytes * size))
        run = list[int]()
        for number in range(len(self._manifest.shards)):
            rows = slice(number * size, (number + 1) * size)
            useful = self._places.found[rows].any() or self._invalid[rows].all()
            wanted = number not in done and useful
            if run and (not wanted or len(run) >= most):
                yield run
                run = []
            if wanted:
                run.append(number)
        if run:
            yield run

    def _copied(self, first: int, last: int) -> Mask:
        """Write the rows `first` to `last` (excluded) and return which ones were copied."""
        numbers = self._writer.gap(self._part, last - first)
        numbers[self._invalid[first:last]] = self._zero
        copied = np.zeros(last - first, bool)
        for to, values in self._gathered(first, last):
            numbers[to], copied[to] = values, True
            self._progress.advance(len(to))
        step = self._writer.chunk_rows(self._part)
        for start in range(0, last - first, step):
            self._writer.write_raw(self._part, first + start, numbers[start : start + step])
        return copied

    def _gathered(self, first: int, last: int) -> Iterator[tuple[npt.NDArray[np.int64], Array]]:
        """Yield places in a block and the rows that belong there, reading each chunk once."""
        source, row = self._places.source[first:last], self._places.row[first:last]
        for number in np.unique(source[source >= 0]):
            feature, split = self._places.sources[number]
            step = feature.chunk_rows(split)
            here = np.flatnonzero(source == number)
            here = here[np.argsort(row[here], kind="stable")]
            chunks = row[here] // step
            borders = np.flatnonzero(np.diff(chunks)) + 1
            for some in np.split(here, borders):
                base = int(row[some[0]] // step) * step
                try:
                    values = feature.raw(split, base, base + step)[row[some] - base]
                except (*UNREADABLE, MvmrError):
                    continue  # damaged: computed again
                whole = ~gaps_in(values)
                yield some[whole], values[whole]
