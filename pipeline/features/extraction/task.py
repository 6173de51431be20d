"""What a worker is told: which rows of which shards to compute, for which features."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.base.locations import Location
from pipeline.base.trial_vectors import TrialVectors
from pipeline.datasets.source import Split
from pipeline.features.store import FeatureStore, FeatureWriter
from pipeline.features.store.feature import number_of_view, view_part
from pipeline.features.store.identities import Identities
from pipeline.images.original_view import ImageOptions
from pipeline.images.preparation import Preparation, StoredViewPreparation
from pipeline.images.stored_views import identities_of_views
from pipeline.representations.representation import Representation, RepresentationOptions
from pipeline.shards.manifest import Manifest, read_manifest
from pipeline.shards.reading import read_shard


@dataclass(frozen=True)
class FeatureTask:
    """What a worker needs to know about one feature; `width` is the representation's.

    `trial` are its vectors of trial pictures, in a few numbers.
    """

    name: str
    options: RepresentationOptions
    width: int
    store: Location
    work: Location
    fingerprint: Mapping[str, Any] = field(hash=False)
    trial: TrialVectors = field(hash=False)

    @property
    def is_fitted(self) -> bool:
        """Whether what is stored of an image depends on other images."""
        return self.options.reduce.by_components or self.options.dtype == "int8"

    def parts(self, manifests: Mapping[Split, Manifest]) -> dict[str, Manifest]:
        """Return the arrays that are stored, by name, each with the manifest of its images.

        They are the splits, and one for each stored view of the training images.
        """
        return {
            part: manifest for split, manifest in manifests.items() for part in self.parts_of(split)
        }

    def parts_of(self, split: str) -> tuple[str, ...]:
        """Return the arrays that are stored of the images of a split, by name."""
        views = self.options.views if split == "train" else None
        return (split, *(view_part(number) for number in range(views.count if views else 0)))

    def identities(self, contents: Mapping[Split, Identities]) -> dict[str, Identities]:
        """Return which image or view each row of each array is of, from the images' contents."""
        found: dict[str, Identities] = dict(contents.items())
        if self.options.views is not None:
            for number in range(self.options.views.count):
                own = identities_of_views(self.options.views, contents["train"], number)
                found[view_part(number)] = own
        return found

    def preparation(self, network: Representation, part: str) -> Preparation:
        """Return how the images of an array are prepared."""
        number, views = number_of_view(part), self.options.views
        if number is None or views is None:
            return network.preparation
        return StoredViewPreparation(network.preparation, views, number)

    def writer(self) -> FeatureWriter:
        """Return the writer of the feature."""
        return FeatureWriter(FeatureStore(self.store), self.name, self.work, self.fingerprint)


@dataclass(frozen=True)
class Span:
    """Rows `first` to `last` (excluded) of one shard."""

    shard: int
    first: int
    last: int


@dataclass(frozen=True)
class Task:
    """One unit of work: the rows of `spans`, in the shards of a split's `directory`.

    `parts` are the arrays of each feature that its rows belong to, by default that of the split.
    `only` are the rows of the split to compute, None for all valid ones; `kept` are the rows, by
    feature and array, that are written already. `measured` are those, by feature, on which the
    fidelity of what is stored is measured. `images` is the number of rows to compute, `batch_size`
    that of rows to compute at once, None for what suits the device. `workers_per_host` is how many
    workers each host has, by host because a worker that replaces a dead one has another address.
    """

    directory: Location
    spans: tuple[Span, ...]
    image: ImageOptions
    features: tuple[FeatureTask, ...]
    workers_per_host: Mapping[str, int]
    images: int
    batch_size: int | None = None
    unit: Literal["shards", "batches"] = "shards"
    parts: Mapping[str, Sequence[str]] = field(default_factory=dict, hash=False)
    only: frozenset[int] | None = None
    kept: Mapping[tuple[str, str], frozenset[int]] = field(default_factory=dict, hash=False)
    measured: Mapping[str, frozenset[int]] = field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        """The tars that it reads, for messages."""
        return ", ".join(f"{self.directory.name}/{span.shard:06d}.tar" for span in self.spans)

    def parts_of(self, feature: FeatureTask) -> Sequence[str]:
        """Return the arrays of a feature that the rows belong to."""
        return self.parts.get(feature.name, (self.directory.name,))

    def files(self) -> Iterator[tuple[int, bytes]]:
        """Yield the rows of the split to compute, in order, each with its image file."""
        manifest = read_manifest(self.directory)
        for span in self.spans:
            base = manifest.first_index(span.shard)
            invalid = set(manifest.shards[span.shard].invalid)
            for record in read_shard(
                self.directory, manifest, span.shard, first=span.first, last=span.last
            ):
                asked = self.only is None or base + record.row in self.only
                if asked and record.row not in invalid:
                    yield base + record.row, record.data
