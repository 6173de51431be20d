"""Preparing a feature before its first row: its reduction, its fidelity, its empty arrays."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise

import numpy as np
import torch

from pipeline.base.errors import DataError
from pipeline.base.locations import Location
from pipeline.base.progress import Progress, not_kept
from pipeline.base.text import counted
from pipeline.datasets.source import Split
from pipeline.features.encoding import Encoding
from pipeline.features.extraction.cluster import Cluster
from pipeline.features.extraction.fingerprint import FIT_IMAGES, FIT_SEED
from pipeline.features.extraction.worker import (
    FeatureTask,
    Span,
    Task,
    sample_vectors,
    witness_rows,
)
from pipeline.features.fidelity import Witness, fewest_components, measure_fidelity
from pipeline.features.principal_components import PASSES, components_of, fit_pca
from pipeline.features.projection import first_projection
from pipeline.features.reduction import Reduction
from pipeline.images.original_view import ImageOptions
from pipeline.representations.representation import RepresentationOptions
from pipeline.shards.manifest import Manifest

# Fidelity is measured on this many images, in batches of a size that is usual in training.
FIDELITY_IMAGES = 1024
FIDELITY_BATCH = 256
LEAST_IMAGES = 2
# Fewer images are sampled if their vectors would take more memory than this.
SAMPLE_BYTES = 2 * 2**30


def prepare(
    feature: FeatureTask,
    *,
    image: ImageOptions,
    shards: Location,
    manifests: Mapping[Split, Manifest],
    cluster: Cluster,
    progress: Progress,
) -> None:
    """Fit the reduction, measure its fidelity on images outside the fit, and create the arrays.

    The work of an interrupted run with the same fingerprint is kept.
    """
    writer = feature.writer()
    writer.begin()
    if not writer.has_reduction():
        sampler = _Sampler(feature, image, shards / "train", manifests["train"], cluster, progress)
        with not_kept(f"preparing {feature.name}", progress):
            _fit(feature, sampler)
    lay_out(feature, manifests)


def lay_out(feature: FeatureTask, manifests: Mapping[Split, Manifest]) -> None:
    """Create the missing arrays of a feature that has a reduction."""
    writer = feature.writer()
    reduction = Reduction.load(*writer.reduction())
    for split, manifest in manifests.items():
        writer.create_split(
            split,
            samples=manifest.samples,
            width=reduction.width(feature.width),
            stored_type=feature.options.dtype,
            samples_per_shard=manifest.samples_per_shard,
        )


class _Sampler:
    """Runs tasks on the first valid training images, which are a random sample."""

    def __init__(
        self,
        feature: FeatureTask,
        image: ImageOptions,
        directory: Location,
        manifest: Manifest,
        cluster: Cluster,
        progress: Progress,
    ) -> None:
        self._feature, self._image = feature, image
        self._directory, self._manifest = directory, manifest
        self._cluster, self.progress = cluster, progress
        invalid = manifest.invalid
        self.rows = [row for row in range(manifest.samples) if row not in invalid]

    def vectors(self, count: int) -> torch.Tensor:
        """Return vectors (count, D) of the first images, after the first projection if any."""
        tasks = self._tasks(0, count, self._manifest.samples_per_shard)
        self.progress.start(f"sample {self._feature.name}", count, "images", step="sample")
        return torch.from_numpy(
            np.concatenate(self._cluster.run(sample_vectors, tasks, self.progress))
        )

    def witnesses(self, first: int, last: int, batches: int, reduction: Reduction) -> list[Witness]:
        """Return witnesses of the images `first` to `last` (excluded), one per batch."""
        tasks = self._tasks(first, last, -(-(last - first) // batches))
        self.progress.start(f"measure {self._feature.name}", last - first, "images", step="measure")
        return self._cluster.run(witness_rows, tasks, self.progress, reduction=reduction)

    def _tasks(self, first: int, last: int, size: int) -> Sequence[Task]:
        borders = [*range(first, last, size), last]
        return [
            Task(
                self._directory,
                tuple(self._spans(self.rows[a], self.rows[b - 1] + 1)),
                self._image,
                (self._feature,),
                self._cluster.tasks_per_host,
                b - a,
                unit="batches",
            )
            for a, b in pairwise(borders)
        ]

    def _spans(self, first: int, last: int) -> Iterator[Span]:
        samples = self._manifest.samples_per_shard
        for shard in range(first // samples, -(-last // samples)):
            base = shard * samples
            yield Span(shard, max(first - base, 0), min(last - base, samples))


def _fit(feature: FeatureTask, sampler: _Sampler) -> None:
    """Fit and store the reduction that the options ask for, with its fidelity."""
    options, writer = feature.options, feature.writer()
    reduce = options.reduce
    reduction = Reduction(first_projection(feature.width, reduce, seed=FIT_SEED))
    encoding = Encoding(options.dtype)
    fitted, measured = split_counts(options, reduction.width(feature.width), len(sampler.rows))
    if measured < LEAST_IMAGES:
        raise DataError(
            f"{feature.name}: besides {counted(fitted, 'images')} that its reduction is fitted on, "
            f"at least {LEAST_IMAGES} are needed to measure its fidelity; there are {measured}."
        )
    if fitted:
        sample = sampler.vectors(fitted)
        reduction, encoding = _fitted(feature.name, reduction, options, sample, sampler.progress)
    batches = max(2 if reduce.fidelity else 1, -(-measured // FIDELITY_BATCH))
    witnesses = sampler.witnesses(fitted, fitted + measured, batches, reduction)
    sampler.progress.start(f"compare {feature.name} with what is stored", 0, "")
    if reduce.fidelity is not None and reduction.pca is not None:
        half = len(witnesses) // 2
        choice, witnesses = witnesses[:half], witnesses[half:]
        components = fewest_components(choice, witnesses, encoding, reduce.fidelity)
        reduction = Reduction(reduction.projection, reduction.pca.first(components))
        encoding = encoding.first(components)
        fidelity = measure_fidelity(witnesses, encoding, components=components)
    else:
        fidelity = measure_fidelity(witnesses, encoding)
    report = {
        "original_width": feature.width,
        "fit_images": fitted,
        "fidelity": asdict(fidelity),
    }
    arrays = {**reduction.arrays(), **encoding.arrays()}
    writer.write_reduction(arrays, {**reduction.attributes(), "report": report})
    if reduce.pca is not None and reduction.width(feature.width) < reduce.pca:
        sampler.progress.note(
            f"{_too_few(feature.name, options, reduction.width(feature.width), fitted)} On "
            f"{fidelity.images} other images, the error of dCor is {fidelity.dcor_error_max:.2g} "
            "at most."
        )


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
    measured = min(wanted, images, max(FIDELITY_BATCH, affordable))
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
) -> tuple[Reduction, Encoding]:
    pca = None
    if options.reduce.by_components:
        progress.start(f"fit {name}", PASSES, "passes")
        components = components_of(options.reduce, *sample.shape)
        pca = fit_pca(sample, components, seed=FIT_SEED, progress=progress)
        sample = pca.apply(sample)
    return Reduction(drawn.projection, pca), Encoding.fit(options.dtype, sample.numpy())
