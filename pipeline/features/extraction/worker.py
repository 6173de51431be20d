"""Tasks that run on a worker: extracting one shard, or computing a few rows for a sample.

An image is decoded once for all requested features. A chunk is written as soon as it is full, so
memory holds only the networks and a few batches.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from distributed import get_worker
from distributed.comm import get_address_host
from torch import Tensor

from pipeline.base.devices import available_cores
from pipeline.base.digests import digest
from pipeline.base.gpu_places import own_gpu
from pipeline.base.locations import Location
from pipeline.features.encoding import Array, Encoding
from pipeline.features.extraction.fingerprint import FIT_SEED
from pipeline.features.fidelity import Witness
from pipeline.features.projection import first_projection
from pipeline.features.reduction import Reduction
from pipeline.features.store import FeatureStore, FeatureWriter
from pipeline.images.decoding import decode
from pipeline.images.original_view import ImageOptions, Preparation
from pipeline.representations.representation import Representation, RepresentationOptions
from pipeline.shards.manifest import Manifest, read_manifest
from pipeline.shards.reading import Record, read_shard

BATCH_IMAGES = 64
# Fidelity on new images is measured on at most so many of a shard.
WITNESSED_ROWS = 256


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
    feature, that are written already. `witnesses` names the features whose fidelity on the computed
    rows is to be measured. `images` is the number of rows to compute. `tasks_per_host`
    is how many tasks each host runs at once, by host because a worker that replaces a dead one has
    another address.
    """

    directory: Location
    spans: tuple[Span, ...]
    image: ImageOptions
    features: tuple[FeatureTask, ...]
    tasks_per_host: Mapping[str, int]
    images: int
    unit: Literal["shards", "batches"] = "shards"
    only: frozenset[int] | None = None
    kept: Mapping[str, frozenset[int]] = field(default_factory=dict, hash=False)
    witnesses: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """The tars that it reads, for messages."""
        return ", ".join(f"{self.directory.name}/{span.shard:06d}.tar" for span in self.spans)


def sample_vectors(task: Task) -> Array:
    """Return the vectors (rows, D) of valid rows, float32, after the first projection if any."""
    (feature,) = task.features
    projection = first_projection(feature.width, feature.options.reduce, seed=FIT_SEED)
    pieces = [
        vectors[feature.name] if projection is None else projection.apply(vectors[feature.name])
        for _, vectors in _represented(task)
    ]
    return torch.cat(pieces).numpy()


def witness_rows(task: Task, reduction: Reduction) -> Witness:
    """Return the witness of the valid rows, by which the reduction's fidelity is measured."""
    (feature,) = task.features
    original = torch.cat([vectors[feature.name] for _, vectors in _represented(task)])
    first = task.spans[0]
    return Witness.of(original, reduction.apply(original), FIT_SEED, first.shard, first.first)


def recomputed_rows(task: Task, reduction: Reduction) -> Array:
    """Return reduced vectors (rows, K), float32, of the rows to compute."""
    (feature,) = task.features
    return torch.cat(
        [reduction.apply(v[feature.name]).cpu() for _, v in _represented(task)]
    ).numpy()


def extract_shard(task: Task) -> dict[str, Witness]:
    """Write all wanted features of one shard, and return the witnesses that are asked for."""
    manifest = read_manifest(task.directory)
    (span,) = task.spans
    none = frozenset[int]()
    sinks = [
        _Sink(
            feature,
            manifest,
            span.shard,
            task.kept.get(feature.name, none),
            witnessed=feature.name in task.witnesses,
        )
        for feature in task.features
    ]
    for computed, vectors in _represented(task):
        for sink in sinks:
            sink.add(computed, vectors[sink.name])
    for sink in sinks:
        sink.close()
    return {sink.name: sink.witness() for sink in sinks if sink.name in task.witnesses}


def _represented(task: Task) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Yield for each batch which rows are computed (B,), and by feature their vectors (rows, D)."""
    device = _device()
    networks = {
        feature.name: _built(feature.options, task.image, device, digest(feature.fingerprint))
        for feature in task.features
    }
    widths = {feature.name: feature.width for feature in task.features}
    records = _records(task)
    with _threads(task.tasks_per_host):
        while batch := list(islice(records, BATCH_IMAGES)):
            images = [decode(record.data) for record, wanted in batch if wanted]
            computed = torch.tensor([wanted for _, wanted in batch])
            prepared: dict[Preparation, Tensor] = {}
            vectors = {}
            for name, network in networks.items():
                if not images:
                    vectors[name] = torch.empty((0, widths[name]))
                    continue
                how = network.preparation
                if how not in prepared:
                    prepared[how] = torch.stack([how(image) for image in images]).to(device)
                with torch.inference_mode():
                    vectors[name] = network(prepared[how]).float().cpu()
            yield computed, vectors


def _records(task: Task) -> Iterator[tuple[Record, bool]]:
    """Yield the records of all spans, and whether they are to be computed."""
    manifest = read_manifest(task.directory)
    for span in task.spans:
        base = manifest.first_index(span.shard)
        invalid = set(manifest.shards[span.shard].invalid)
        for record in read_shard(
            task.directory, manifest, span.shard, first=span.first, last=span.last
        ):
            asked = task.only is None or base + record.row in task.only
            yield record, asked and record.row not in invalid


def _device() -> str:
    """Return this process's GPU; without GPUs, the CPU."""
    number = own_gpu()
    return "cpu" if number is None else f"cuda:{number}"


@lru_cache(maxsize=16)
def _built(
    options: RepresentationOptions, image: ImageOptions, device: str, fingerprint: str
) -> Representation:
    """Load a network once per worker process; another `fingerprint` means other weights."""
    del fingerprint
    return options.build(image).to(device).eval()


class _Sink:
    """Reduces the vectors of one feature in one shard, and writes them in whole chunks."""

    def __init__(
        self,
        feature: FeatureTask,
        manifest: Manifest,
        shard: int,
        kept: frozenset[int],
        *,
        witnessed: bool,
    ) -> None:
        self.name = feature.name
        self._kept, self._witnessed = kept, witnessed
        self._originals: list[Tensor] = []
        self._reduced: list[Tensor] = []
        self._writer = feature.writer()
        self._reduction, self._encoding = _stored_by(feature, self._writer.reduction_digest())
        self._split, self._shard = manifest.split, shard
        self._chunk = self._writer.chunk_rows(manifest.split)
        self._next = manifest.first_index(shard)
        self._held: list[Array] = []

    def add(self, computed: Tensor, vectors: Tensor) -> None:
        """Add the vectors of a batch's rows; those not computed are zeros unless they are kept."""
        reduced = self._reduction.apply(vectors)
        if self._witnessed and sum(map(len, self._reduced)) < WITNESSED_ROWS:
            self._originals.append(vectors)
            self._reduced.append(reduced)
        rows = reduced.new_zeros((len(computed), reduced.shape[1]))
        rows[computed] = reduced
        self._held.append(rows.numpy())
        while sum(map(len, self._held)) >= self._chunk:
            self._flush(self._chunk)

    def witness(self) -> Witness:
        """Return the witness of the first computed rows, of which there are at least two."""
        original, reduced = torch.cat(self._originals), torch.cat(self._reduced)
        return Witness.of(original, reduced, FIT_SEED, self._shard, 0)

    def close(self) -> None:
        """Write the remaining rows and mark the shard as done."""
        self._flush(self._chunk)
        self._writer.mark(self._split, [self._shard])

    def _flush(self, rows: int) -> None:
        if not self._held:
            return
        held = np.concatenate(self._held)
        some = held[:rows]
        numbers = range(self._next, self._next + len(some))
        keep = np.array([number in self._kept for number in numbers])
        self._writer.write_rows(self._split, self._next, some, self._encoding, keep=keep)
        self._next += len(some)
        self._held = [held[rows:]] if len(held) > rows else []


@lru_cache(maxsize=8)
def _stored_by(feature: FeatureTask, reduction: str) -> tuple[Reduction, Encoding]:
    """Read a reduction and its encoding once per worker process; `reduction` is its digest."""
    del reduction
    arrays, attributes = feature.writer().reduction()
    return Reduction.load(arrays, attributes), Encoding.load(feature.options.dtype, arrays)


@contextmanager
def _threads(tasks_per_host: Mapping[str, int]) -> Iterator[None]:
    """Share the cores of this host evenly among the tasks that run on it at once."""
    worker = get_worker()
    at_once = tasks_per_host.get(get_address_host(worker.address), worker.state.nthreads)
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, available_cores() // at_once))
    try:
        yield
    finally:
        torch.set_num_threads(before)
