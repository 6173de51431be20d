"""Where the vectors of one array in one shard go: reduced, measured, written in whole chunks."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from pipeline.base.errors import StoreError
from pipeline.features.encoding import Array, Encoding
from pipeline.features.extraction.fingerprint import FIT_SEED
from pipeline.features.extraction.kept import keep_losses
from pipeline.features.extraction.task import FeatureTask
from pipeline.features.fidelity import Loss, Witness, loss_of
from pipeline.features.reduction import Reduction
from pipeline.shards.manifest import Manifest

# Fidelity is measured in batches of at most so many images, a size that is usual in training.
MEASURED_BATCH = 256


@dataclass(frozen=True)
class Reduced:
    """What is written of some rows (B, K), and the vectors (B, D) of those that are measured."""

    rows: Sequence[int]
    numbers: Tensor
    originals: Tensor
    measured: Sequence[int]  # places among the rows


class Sink:
    """Reduces the vectors of one array in one shard, and writes them in whole chunks.

    `reduce` is called by the thread that computes, and `add` and `close` by the one that writes.
    """

    def __init__(
        self,
        feature: FeatureTask,
        part: str,
        manifest: Manifest,
        shard: int,
        *,
        kept: frozenset[int],
        measured: frozenset[int],
        device: torch.device,
    ) -> None:
        self.name, self.part, self._work = feature.name, part, feature.work
        self._writer = feature.writer()
        self._reduction, self._encoding = _stored_by(
            feature, self._writer.reduction_digest(), device
        )
        self._shard, self._kept = shard, kept
        self._chunk_rows = self._writer.chunk_rows(part)
        self._first = manifest.first_index(shard)
        self._end = self._first + manifest.shards[shard].samples
        self._chunk = self._empty()
        self._measure = _Measure(measured, shard, self._encoding)

    def reduce(self, rows: Sequence[int], vectors: Tensor) -> Reduced:
        """Reduce the vectors (B, D) of some rows, on their device."""
        measured = self._measure.places(rows)
        originals = vectors[measured] if measured else vectors[:0]
        return Reduced(rows, self._reduction.apply(vectors), originals, measured)

    def add(self, reduced: Reduced) -> None:
        """Write the chunks that are complete; rows come in order."""
        if reduced.measured:
            self._measure.add(reduced.originals, reduced.numbers[reduced.measured])
        rows, numbers = np.array(reduced.rows), reduced.numbers.cpu().numpy()
        while len(rows):
            here = rows < self._first + self._chunk_rows
            self._chunk[rows[here] - self._first] = numbers[here]
            rows, numbers = rows[~here], numbers[~here]
            if len(rows):
                self._flush()

    def close(self) -> None:
        """Write the remaining rows, and mark the shard as done."""
        while self._first < self._end:
            self._flush()
        if losses := self._measure.finish():
            keep_losses(self._work, self.part, self._shard, losses)
        self._writer.mark(self.part, [self._shard])

    def _flush(self) -> None:
        """Write a chunk; rows that were not computed are zeros, unless they are kept."""
        last = min(self._first + self._chunk_rows, self._end)
        keep = np.array([row in self._kept for row in range(self._first, last)])
        chunk, first = self._chunk[: len(keep)], self._first
        if not keep.all():
            try:
                self._writer.write_rows(self.part, first, chunk, self._encoding, keep=keep)
            except StoreError as error:
                raise StoreError(f"{self.name}: {error}") from error
        self._first, self._chunk = last, self._empty()

    def _empty(self) -> Array:
        rows = min(self._chunk_rows, self._end - self._first)
        return np.zeros((rows, self._writer.width(self.part)), np.float32)


class _Measure:
    """Measures what storing loses, in batches of about the same size."""

    def __init__(self, rows: frozenset[int], shard: int, encoding: Encoding) -> None:
        self._rows, self._shard, self._encoding = rows, shard, encoding
        batches = -(-len(rows) // MEASURED_BATCH)
        self._size = -(-len(rows) // batches) if batches else 0
        self._held: list[tuple[Tensor, Tensor]] = []
        self._losses: list[Loss] = []

    def places(self, rows: Sequence[int]) -> list[int]:
        """Return the places among some rows of those to measure."""
        return [place for place, row in enumerate(rows) if row in self._rows]

    def add(self, originals: Tensor, numbers: Tensor) -> None:
        """Add vectors (B, D) and what is written of them (B, K)."""
        self._held.append((originals, numbers))
        while sum(len(held) for held, _ in self._held) >= self._size:
            self._measured(self._size)

    def finish(self) -> list[Loss]:
        """Return the losses of all batches."""
        if self._held and len(self._held[0][0]) > 1:
            self._measured(self._size)
        return self._losses

    def _measured(self, count: int) -> None:
        originals, numbers = (torch.cat(parts) for parts in zip(*self._held, strict=True))
        seeds = FIT_SEED, self._shard, len(self._losses)
        whole = numbers.shape[1] == originals.shape[1]
        witness = Witness.of(originals[:count], numbers[:count], *seeds, components=whole)
        self._losses.append(loss_of(witness, self._encoding))
        rest = originals[count:], numbers[count:]
        self._held = [rest] if len(rest[0]) else []


@lru_cache(maxsize=8)
def _stored_by(
    feature: FeatureTask, reduction: str, device: torch.device
) -> tuple[Reduction, Encoding]:
    """Read a reduction and its encoding once per worker process; `reduction` is its digest."""
    del reduction
    arrays, attributes = feature.writer().reduction()
    encoding = Encoding.load(feature.options.dtype, arrays)
    return Reduction.load(arrays, attributes).to(device), encoding
