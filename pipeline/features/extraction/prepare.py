"""Preparing a feature before its first row: its reduction, its fidelity, its empty arrays.

No image is computed twice. The rows that a reduction is fitted and measured on are kept, and
written as they are. Where nothing is fitted, fidelity is measured on rows while they are extracted.

A reduction that was fitted once stays when images come in, and is measured on the new ones.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.base.digests import digest
from pipeline.base.errors import DataError
from pipeline.base.locations import Location
from pipeline.base.progress import Progress, not_kept
from pipeline.base.text import counted
from pipeline.datasets.source import Split
from pipeline.features.encoding import Array, Encoding
from pipeline.features.extraction.cluster import Cluster
from pipeline.features.extraction.fingerprint import FIT_IMAGES, FIT_SEED
from pipeline.features.extraction.kept import fitted_rows, keep_fitted, kept_losses
from pipeline.features.extraction.sink import MEASURED_BATCH
from pipeline.features.extraction.task import FeatureTask, Span, Task
from pipeline.features.extraction.worker import sample_vectors, witness_rows
from pipeline.features.fidelity import (
    Fidelity,
    Loss,
    Witness,
    fewest_components,
    fidelity_of,
    measure_fidelity,
)
from pipeline.features.principal_components import PASSES, components_of, fit_pca
from pipeline.features.projection import first_projection
from pipeline.features.reduction import Reduction
from pipeline.features.store.feature import BASIS, COMPONENT_DEVIATION, COMPONENT_MEAN
from pipeline.features.store.writer import REPORT
from pipeline.images.original_view import ImageOptions
from pipeline.representations.representation import RepresentationOptions
from pipeline.shards.listing import read_contents
from pipeline.shards.manifest import Manifest

# Fidelity is measured on this many images.
FIDELITY_IMAGES = 1024
LEAST_IMAGES = 2
# On fewer new images, the fidelity of a reduction is not measured again.
FEWEST_NEW = 64
# An error of dCor that is of no consequence.
LEAST_BOUND = 0.005
# Fewer images are sampled if their vectors would take more memory than this.
SAMPLE_BYTES = 2 * 2**30
COLUMNS_AT_ONCE = 65_536


@dataclass(frozen=True)
class Sampling:
    """What computing a sample of training images needs; `manifest` is that of train."""

    feature: FeatureTask
    image: ImageOptions
    shards: Location
    manifest: Manifest
    cluster: Cluster
    progress: Progress

    def valid_rows(self) -> list[int]:
        """Return the rows that may be used, in order."""
        invalid = self.manifest.invalid
        return [row for row in range(self.manifest.samples) if row not in invalid]


def prepare(sampling: Sampling) -> None:
    """Store the reduction, which is fitted and measured on images of its own if need be."""
    feature, rows = sampling.feature, sampling.valid_rows()
    drawn = Reduction(first_projection(feature.width, feature.options.reduce, seed=FIT_SEED))
    width = drawn.width(feature.width)
    fitted, measured = split_counts(feature.options, width, len(rows))
    if measured < LEAST_IMAGES:
        raise DataError(
            f"{feature.name}: besides {counted(fitted, 'images')} that its reduction is fitted on, "
            f"at least {LEAST_IMAGES} are needed to measure its fidelity; there are {measured}."
        )
    if not feature.is_fitted:
        feature.writer().write_reduction(drawn.arrays(), drawn.attributes())
        return
    with not_kept(f"preparing {feature.name}", sampling.progress):
        _fit(_Sampler(sampling, rows), drawn, fitted, measured)


def lay_out(feature: FeatureTask, manifests: Mapping[Split, Manifest]) -> None:
    """Create the missing arrays of a feature that has a reduction."""
    writer = feature.writer()
    reduction = Reduction.load(*writer.reduction())
    for part, manifest in feature.parts(manifests).items():
        writer.create_split(
            part,
            samples=manifest.samples,
            width=reduction.width(feature.width),
            stored_type=feature.options.dtype,
            samples_per_shard=manifest.samples_per_shard,
        )


def write_fitted(feature: FeatureTask, manifest: Manifest) -> "npt.NDArray[np.bool_]":
    """Write the training rows that a reduction was fitted and measured on.

    Return which rows (samples,) these are. Shards that are thereby finished are marked; rows of
    images in them that could not be decoded are zeros.
    """
    written = np.zeros(manifest.samples, bool)
    found = fitted_rows(feature.work)
    if found is None:
        return written
    rows, numbers = found
    written[rows] = True
    invalid = np.zeros_like(written)
    invalid[sorted(manifest.invalid)] = True
    writer, split = feature.writer(), manifest.split
    encoding = Encoding.load(feature.options.dtype, writer.reduction()[0])
    zero = encoding.encode(np.zeros((1, numbers.shape[1]), np.float32))
    step, done = writer.chunk_rows(split), writer.done()
    for number, shard in enumerate(manifest.shards):
        first = manifest.first_index(number)
        last = first + shard.samples
        if (split, number) in done or not written[first:last].any():
            continue
        for start in range(first, last, step):
            end = min(start + step, last)
            here = (rows >= start) & (rows < end)
            chunk = writer.read_raw(split, np.arange(start, end))
            chunk[rows[here] - start] = numbers[here]
            chunk[invalid[start:end]] = zero
            writer.write_raw(split, start, chunk)
        if (written | invalid)[first:last].all():
            writer.mark(split, [number])
    return written


def rows_to_measure(feature: FeatureTask, manifest: Manifest) -> dict[int, frozenset[int]]:
    """Return the training rows, by shard, on which an unfitted feature's fidelity is measured.

    A single row of a shard cannot be measured.
    """
    width = Reduction.load(*feature.writer().reduction()).width(feature.width)
    invalid = manifest.invalid
    valid = [row for row in range(manifest.samples) if row not in invalid]
    _, measured = split_counts(feature.options, width, len(valid))
    shards = dict[int, list[int]]()
    for row in valid[:measured]:
        shards.setdefault(row // manifest.samples_per_shard, []).append(row)
    return {number: frozenset(rows) for number, rows in shards.items() if len(rows) > 1}


def report_fidelity(feature: FeatureTask, manifest: Manifest) -> None:
    """Store the report of an unfitted feature, from what was measured during its extraction."""
    writer = feature.writer()
    arrays, attributes = writer.reduction()
    encoding = Encoding.load(feature.options.dtype, arrays)
    width = Reduction.load(arrays, attributes).width(feature.width)
    losses = [loss for found in kept_losses(feature.work).values() for loss in found]
    rows = sorted(row for found in rows_to_measure(feature, manifest).values() for row in found)
    stored = encoding.decode(writer.read_raw(manifest.split, np.array(rows)))
    fidelity = fidelity_of(losses, width * encoding.itemsize)
    writer.write_report(_statistics(torch.from_numpy(stored)), _report(feature, 0, fidelity))


def check_basis(
    feature: FeatureTask, losses: Sequence[Loss], manifest: Manifest, progress: Progress
) -> None:
    """Measure the fidelity of a reduction on new training images, which it was not fitted for.

    There is a note if it is worse than a bound: what `reduce.fidelity` asks for, or twice the
    error that was measured when the reduction was fitted. Errors of few images vary a lot, so the
    share of variance that is not stored must have grown by a quarter, too.
    """
    if sum(loss.images for loss in losses) < FEWEST_NEW:
        return
    then = feature.writer().reduction()[1][REPORT]["fidelity"]
    found = fidelity_of(losses, then["bytes_per_image"])
    before = then["dcor_error_max"]
    bound = feature.options.reduce.fidelity or max(2 * before, LEAST_BOUND)
    lost = 1.25 * (1 - then["explained_variance"])
    if found.dcor_error_max > bound and 1 - found.explained_variance > lost:
        progress.note(
            f"{feature.name}: its reduction was fitted to other images. On new ones its error of "
            f"dCor is {found.dcor_error_max:.2g}; it was {before:.2g} at most. The stored rows "
            f"stay; `mvmr extract-features --only {feature.name} --force` fits the reduction "
            f"again, and computes all {manifest.valid:,} training images and the others anew."
        )


class _Sampler:
    """Runs tasks on the images of some rows; the first ones of a split are a random sample."""

    def __init__(self, sampling: Sampling, rows: Sequence[int]) -> None:
        self.feature, self.rows, self.progress = sampling.feature, rows, sampling.progress
        self.manifest, self.directory = sampling.manifest, sampling.shards / "train"
        self._image, self._cluster = sampling.image, sampling.cluster

    def vectors(self, count: int) -> torch.Tensor:
        """Return vectors (count, D) of the first images, after the first projection if any."""
        tasks = self._tasks(0, count, self.manifest.samples_per_shard)
        self.progress.start(f"sample {self.feature.name}", count, "images", step="sample")
        return torch.from_numpy(
            np.concatenate(self._cluster.run(sample_vectors, tasks, self.progress))
        )

    def witnesses(self, first: int, last: int, batches: int, reduction: Reduction) -> list[Witness]:
        """Return witnesses of the images `first` to `last` (excluded), one per batch."""
        tasks = self._tasks(first, last, -(-(last - first) // batches))
        self.progress.start(f"measure {self.feature.name}", last - first, "images", step="measure")
        return self._cluster.run(witness_rows, tasks, self.progress, reduction=reduction)

    def _tasks(self, first: int, last: int, size: int) -> Sequence[Task]:
        borders = [*range(first, last, size), last]
        return [
            Task(
                self.directory,
                tuple(self._spans(self.rows[a], self.rows[b - 1] + 1)),
                self._image,
                (self.feature,),
                self._cluster.workers_per_host,
                b - a,
                self._cluster.batch_size,
                unit="batches",
                only=frozenset(self.rows[a:b]),
            )
            for a, b in pairwise(borders)
        ]

    def _spans(self, first: int, last: int) -> Iterator[Span]:
        samples = self.manifest.samples_per_shard
        for shard in range(first // samples, -(-last // samples)):
            base = shard * samples
            yield Span(shard, max(first - base, 0), min(last - base, samples))


def _fit(sampler: _Sampler, drawn: Reduction, fitted: int, measured: int) -> None:
    """Fit and store the reduction that the options ask for, with its fidelity and its rows."""
    feature = sampler.feature
    options, writer = feature.options, feature.writer()
    reduce = options.reduce
    sample = sampler.vectors(fitted)
    reduction, encoding, sample = _fitted(feature.name, drawn, options, sample, sampler.progress)
    batches = max(2 if reduce.fidelity else 1, -(-measured // MEASURED_BATCH))
    witnesses = sampler.witnesses(fitted, fitted + measured, batches, reduction)
    sampler.progress.start(f"compare {feature.name} with what is stored", 0, "")
    others = torch.cat([witness.reduced for witness in witnesses])
    if reduce.fidelity is not None and reduction.pca is not None:
        half = len(witnesses) // 2
        choice, witnesses = witnesses[:half], witnesses[half:]
        components = fewest_components(choice, witnesses, encoding, reduce.fidelity)
        reduction = Reduction(reduction.projection, reduction.pca.first(components))
        encoding = encoding.first(components)
        fidelity = measure_fidelity(witnesses, encoding, components=components)
    else:
        fidelity = measure_fidelity(witnesses, encoding)
    width = reduction.width(feature.width)
    rows = torch.cat([witness.reduced[:, :width] for witness in witnesses])
    arrays = {**reduction.arrays(), **encoding.arrays(), **_statistics(rows)}
    numbers = encoding.encode(torch.cat([sample, others])[:, :width].numpy())
    keep_fitted(feature.work, sampler.rows[: fitted + measured], numbers)
    writer.write_reduction(
        arrays,
        {
            **reduction.attributes(),
            BASIS: _basis(sampler, fitted),
            REPORT: _report(feature, fitted, fidelity),
        },
    )
    if reduce.pca is not None and width < reduce.pca:
        sampler.progress.note(
            f"{_too_few(feature.name, options, width, fitted)} On "
            f"{fidelity.images} other images, the error of dCor is {fidelity.dcor_error_max:.2g} "
            "at most."
        )


def _report(feature: FeatureTask, fitted: int, fidelity: Fidelity) -> dict[str, Any]:
    return {
        "original_width": feature.width,
        "fit_images": fitted,
        "fidelity": asdict(fidelity),
    }


def _statistics(rows: torch.Tensor) -> dict[str, Array]:
    """Return mean and deviation of each stored number, of images that nothing was fitted on."""
    parts = torch.split(rows.cpu(), COLUMNS_AT_ONCE, dim=1)
    found = [torch.stack(torch.std_mean(part.double(), dim=0)).float() for part in parts]
    deviation, mean = torch.cat(found, dim=1).numpy()
    return {COMPONENT_MEAN: mean, COMPONENT_DEVIATION: deviation}


def _basis(sampler: _Sampler, fitted: int) -> str:
    """Return the digest of the images that a reduction is fitted on, in order."""
    identities = read_contents(sampler.directory, sampler.manifest)[sampler.rows[:fitted]]
    return digest([row.tobytes().hex() for row in identities])


def _too_few(name: str, options: RepresentationOptions, components: int, fitted: int) -> str:
    """Return a note that a feature has fewer components than requested, with a remedy."""
    return (
        f"{name}: {components} principal components instead of {options.reduce.pca}, because "
        f"{fitted} images are too few to fit more. Set features.{name}.reduce to {{}} to store "
        "all numbers; a small data set can afford it."
    )


def split_counts(options: RepresentationOptions, width: int, images: int) -> tuple[int, int]:
    """Return how many of the images to fit on, and how many others to measure on.

    `width` is that of the vectors after a first projection.
    """
    affordable = SAMPLE_BYTES // (4 * width)
    wanted = (2 if options.reduce.fidelity else 1) * FIDELITY_IMAGES
    measured = min(wanted, images, max(MEASURED_BATCH, affordable))
    if not (options.reduce.by_components or options.dtype == "int8"):
        return 0, measured
    # A small data set leaves one image in five for the measurement, but at least two.
    fitted = max(images - measured, min(4 * images // 5, images - LEAST_IMAGES), 1)
    fitted = min(fitted, FIT_IMAGES, affordable)
    return fitted, min(measured, images - fitted)


def _fitted(
    name: str,
    drawn: Reduction,
    options: RepresentationOptions,
    sample: torch.Tensor,
    progress: Progress,
) -> tuple[Reduction, Encoding, torch.Tensor]:
    """Return the reduction, the encoding, and the sample after the reduction (N, K)."""
    pca = None
    if options.reduce.by_components:
        progress.start(f"fit {name}", PASSES, "passes")
        components = components_of(options.reduce, *sample.shape)
        pca = fit_pca(sample, components, seed=FIT_SEED, progress=progress)
        sample = pca.apply(sample)
    encoding = Encoding.fit(options.dtype, sample.numpy())
    return Reduction(drawn.projection, pca), encoding, sample
