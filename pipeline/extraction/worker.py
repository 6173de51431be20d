"""What runs on a worker: one task is one shard.

An image is decoded once for all features wanted. Batches are computed and whole chunks written
as they fill, so memory is bounded by the networks and a few batches.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.config import digest
from pipeline.extraction.fingerprint import FIT_IMAGES
from pipeline.images import ImageOptions, Preparation, decode
from pipeline.reduction import ReduceOptions, Reduction
from pipeline.representations.base import Representation, RepresentationOptions
from pipeline.shards import Manifest, read_manifest, read_shard
from pipeline.store import Array, FeatureWriter

BATCH_IMAGES = 64
# Images that the fidelity of a reduction is measured on, beside those it is fitted on; fewer of
# both where their unreduced vectors would take more memory than this.
FIDELITY_IMAGES = 1024
SAMPLE_BYTES = 4 * 2**30


@dataclass(frozen=True)
class FeatureTask:
    """What a worker needs to know about one feature."""

    name: str
    options: RepresentationOptions
    width: int
    work: Path
    fingerprint: Mapping[str, Any]

    @property
    def sample(self) -> int:
        """Number of images to sample, for fit and fidelity."""
        reduced = self.options.reduce != ReduceOptions()
        wanted = FIDELITY_IMAGES + (FIT_IMAGES if reduced else 0)
        return min(wanted, max(2, SAMPLE_BYTES // (4 * self.width)))


@dataclass(frozen=True)
class ShardTask:
    """One unit of work: a shard (its first `rows` rows only, where a sample is wanted)."""

    directory: Path
    number: int
    image: ImageOptions
    features: tuple[FeatureTask, ...]
    threads: int | None
    device: str
    rows: int | None = None


def sample_shard(task: ShardTask) -> Array:
    """Return the unreduced representation of the first rows of a shard, (valid rows, D) float32."""
    (feature,) = task.features
    with _threads(task.threads):
        pieces = [vectors[feature.name] for _, vectors in _represented(task)]
    return torch.cat(pieces).numpy()


def extract_shard(task: ShardTask) -> int:
    """Write all wanted features of one shard and return its number of samples."""
    manifest = read_manifest(task.directory)
    samples = manifest.shards[task.number].samples
    sinks = [_Sink(feature, manifest, task.number) for feature in task.features]
    with _threads(task.threads):
        for valid, vectors in _represented(task):
            for sink in sinks:
                sink.add(valid, vectors[sink.name])
    for sink in sinks:
        sink.close()
    return samples


def _represented(task: ShardTask) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Yield, batch by batch, which rows are valid (B,) and the vectors of those, (valid, D)."""
    manifest = read_manifest(task.directory)
    records = read_shard(task.directory, manifest, task.number, last=task.rows)
    networks = {
        feature.name: _built(feature.options, task.image, task.device, digest(feature.fingerprint))
        for feature in task.features
    }
    widths = {feature.name: feature.width for feature in task.features}
    while batch := list(islice(records, BATCH_IMAGES)):
        images = [decode(record.data) for record in batch if record.valid]
        valid = torch.tensor([record.valid for record in batch])
        prepared: dict[Preparation, Tensor] = {}
        vectors = {}
        for name, network in networks.items():
            if not images:
                vectors[name] = torch.empty((0, widths[name]))
                continue
            how = network.preparation
            if how not in prepared:
                prepared[how] = torch.stack([how(image) for image in images]).to(task.device)
            with torch.inference_mode():
                vectors[name] = network(prepared[how]).float().cpu()
        yield valid, vectors


@lru_cache(maxsize=16)
def _built(
    options: RepresentationOptions, image: ImageOptions, device: str, fingerprint: str
) -> Representation:
    """Load a network once a worker process; another `fingerprint` means other weights."""
    del fingerprint
    return options.build(image).to(device).eval()


class _Sink:
    """Reduces the vectors of one feature of one shard and writes them in whole chunks."""

    def __init__(self, feature: FeatureTask, manifest: Manifest, number: int) -> None:
        self.name = feature.name
        self._writer = FeatureWriter(feature.work, feature.fingerprint)
        self._reduction = Reduction.load(*self._writer.reduction())
        self._split = manifest.split
        self._chunk = self._writer.chunk_rows(manifest.split)
        self._next = manifest.first_index(number)
        self._marker = marker(feature, manifest.split, number)
        self._held: list[Array] = []

    def add(self, valid: Tensor, vectors: Tensor) -> None:
        """Take the vectors of a batch's valid rows; the others are stored as zeros."""
        reduced = self._reduction.apply(vectors)
        rows = reduced.new_zeros((len(valid), reduced.shape[1]))
        rows[valid] = reduced
        self._held.append(rows.numpy())
        while sum(map(len, self._held)) >= self._chunk:
            self._flush(self._chunk)

    def close(self) -> None:
        """Write what is left and mark the shard as done."""
        self._flush(self._chunk)
        self._marker.parent.mkdir(exist_ok=True)
        self._marker.touch()

    def _flush(self, rows: int) -> None:
        if not self._held:
            return
        held = np.concatenate(self._held)
        self._writer.write_rows(self._split, self._next, held[:rows])
        self._next += len(held[:rows])
        self._held = [held[rows:]] if len(held) > rows else []


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def marker(feature: FeatureTask, split: str, number: int) -> Path:
    """Return the file that says that a shard of a feature is done."""
    return feature.work / "done" / f"{split}-{number:06d}"
