"""Preparing a feature before its first row: its reduction, its fidelity, its empty arrays.

A reduction that was fitted once stays when images come in, and is measured on the new ones.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

import numpy as np
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
from pipeline.features.store.feature import BASIS, COMPONENT_DEVIATION, COMPONENT_MEAN
from pipeline.images.original_view import ImageOptions
from pipeline.representations.representation import RepresentationOptions
from pipeline.shards.listing import read_contents
from pipeline.shards.manifest import Manifest

# Fidelity is measured on this many images, in batches of a size that is usual in training.
FIDELITY_IMAGES = 1024
FIDELITY_BATCH = 256
LEAST_IMAGES = 2
# On fewer new images, the fidelity of a reduction is not measured again.
FEWEST_NEW = 64
# An error of dCor that is of no consequence.
LEAST_BOUND = 0.005
# Fewer images are sampled if their vectors would take more memory than this.
SAMPLE_BYTES = 2 * 2**30


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
    """Fit the reduction, and measure its fidelity on images outside the fit."""
    with not_kept(f"preparing {sampling.feature.name}", sampling.progress):
        _fit(_Sampler(sampling, sampling.valid_rows()))


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


def check_basis(
    feature: FeatureTask, witnesses: Sequence[Witness], manifest: Manifest, progress: Progress
) -> None:
    """Measure the fidelity of a reduction on new training images, which it was not fitted for.

    There is a note if it is worse than a bound: what `reduce.fidelity` asks for, or twice the
    error that was measured when the reduction was fitted. Errors of few images vary a lot, so the
    share of variance that is not stored must have grown by a quarter, too.
    """
    if sum(len(witness.reduced) for witness in witnesses) < FEWEST_NEW:
        return
    arrays, attributes = feature.writer().reduction()
    found = measure_fidelity(witnesses, Encoding.load(feature.options.dtype, arrays))
    then = attributes["report"]["fidelity"]
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
                self._cluster.tasks_per_host,
                b - a,
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


def _fit(sampler: _Sampler) -> None:
    """Fit and store the reduction that the options ask for, with its fidelity."""
    feature = sampler.feature
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
    rows = torch.cat(
        [witness.reduced[:, : reduction.width(feature.width)] for witness in witnesses]
    )
    arrays = {**reduction.arrays(), **encoding.arrays(), **_statistics(rows)}
    basis = {BASIS: _basis(sampler, fitted)} if feature.is_fitted else {}
    writer.write_reduction(arrays, {**reduction.attributes(), **basis, "report": report})
    if reduce.pca is not None and reduction.width(feature.width) < reduce.pca:
        sampler.progress.note(
            f"{_too_few(feature.name, options, reduction.width(feature.width), fitted)} On "
            f"{fidelity.images} other images, the error of dCor is {fidelity.dcor_error_max:.2g} "
            "at most."
        )


def _statistics(rows: torch.Tensor) -> dict[str, Array]:
    """Return mean and deviation of each stored number, of images that nothing was fitted on."""
    rows = rows.double().cpu()
    return {
        COMPONENT_MEAN: rows.mean(0).float().numpy(),
        COMPONENT_DEVIATION: rows.std(0).float().numpy(),
    }


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
