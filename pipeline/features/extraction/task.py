"""What a worker is told: which rows of which shards to compute, for which features."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.base.locations import Location
from pipeline.features.store import FeatureStore, FeatureWriter
from pipeline.images.original_view import ImageOptions
from pipeline.representations.representation import RepresentationOptions
from pipeline.shards.manifest import read_manifest
from pipeline.shards.reading import read_shard


@dataclass(frozen=True)
class FeatureTask:
    """What a worker needs to know about one feature; `width` is the representation's."""

    name: str
    options: RepresentationOptions
    width: int
    store: Location
    work: Location
    fingerprint: Mapping[str, Any] = field(hash=False)

    @property
    def is_fitted(self) -> bool:
        """Whether what is stored of an image depends on other images."""
        return self.options.reduce.by_components or self.options.dtype == "int8"

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

    `only` are the rows of the split to compute, None for all valid ones; `kept` are the rows, by
    feature, that are written already. `measured` are those, by feature, on which the fidelity of
    what is stored is measured. `images` is the number of rows to compute, `batch_size` that of
    rows to compute at once, None for what suits the device. `workers_per_host` is how many workers
    each host has, by host because a worker that replaces a dead one has another address.
    """

    directory: Location
    spans: tuple[Span, ...]
    image: ImageOptions
    features: tuple[FeatureTask, ...]
    workers_per_host: Mapping[str, int]
    images: int
    batch_size: int | None = None
    unit: Literal["shards", "batches"] = "shards"
    only: frozenset[int] | None = None
    kept: Mapping[str, frozenset[int]] = field(default_factory=dict, hash=False)
    measured: Mapping[str, frozenset[int]] = field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        """The tars that it reads, for messages."""
        return ", ".join(f"{self.directory.name}/{span.shard:06d}.tar" for span in self.spans)

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
