"""How much error storing a representation adds to the objective, on images outside the fit.

The unreduced vectors of a batch can take gigabytes. Distance correlation needs only the distances
between them, so a worker condenses each batch to a `Witness`. Witnesses are enough to assess one
reduction, or to compare numbers of components.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from pipeline.base.errors import ConfigError, DataError
from pipeline.base.seeds import generator
from pipeline.dependence.distance_correlation import Sample, distance_correlation
from pipeline.dependence.distances import pairwise_distances
from pipeline.features.encoding import Encoding
from pipeline.features.projection import Projection
from pipeline.features.whitening import divisors

TEST_WIDTH = 64
# The powers of its deviation by which each component is divided.
GEOMETRIES = (0.5, 1.0)


@dataclass(frozen=True)
class Fidelity:
    """What storing loses, measured on `images` images in batches.

    Errors of dCor are absolute. `gradient_error` is the largest relative error, in the Euclidean
    norm, of dCor's gradient with respect to an embedding. This embedding depends on the
    representation, as an encoder's does: it is a random projection of it plus noise of equal
    power, so that dCor is well inside (0, 1). `dcor_error_independent` is the largest error for
    an embedding of pure noise, which no encoder produces: the hardest case, because all of its
    dCor is bias. `explained_variance` is the stored share of the representation's total variance.

    `dcor_error_whitened` is the largest error between distances in the geometries of `GEOMETRIES`,
    by the power of the deviation; there the components that are not stored count more than in plain
    distances. They are taken to vary alike, as in probabilistic PCA (Tipping and Bishop 1999). It
    is empty for random projections, which have no components.
    """

    images: int
    dcor_error_max: float
    dcor_error_mean: float
    dcor_error_independent: float
    gradient_error: float
    explained_variance: float
    bytes_per_image: int
    dcor_error_whitened: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Witness:
    """What measuring fidelity needs of a batch of B images, before and after reduction.

    `distances` (B, B) and total `variance` are those of the unreduced vectors; `reduced` (B, K)
    are the reduced ones. `embeddings` (2, B, TEST_WIDTH) hold a dependent and an independent one.
    `unstored` is how many components the reduced vectors lack; None if they are no components.
    """

    distances: Tensor
    variance: float
    embeddings: Tensor
    reduced: Tensor
    unstored: int | None

    @classmethod
    def of(
        cls, original: Tensor, reduced: Tensor, *seeds: int, components: bool = True
    ) -> "Witness":
        """Make the witness of vectors (B, D) and their reduced form (B, K), before encoding.

        `components` says whether these are numbers of the vectors, perhaps after a rotation.

        Raises DataError if there are fewer than 2 rows, or the numbers of rows differ.
        """
        if len(original) != len(reduced) or len(original) < 2:
            raise DataError(
                "Fidelity compares at least 2 images with as many reduced ones; "
                f"found {len(original)} and {len(reduced)}."
            )
        return cls(
            pairwise_distances(original),
            _total_variance(original),
            _test_embeddings(original, *seeds),
            reduced.float(),
            original.shape[1] - reduced.shape[1] if components else None,
        )

    def to(self, device: torch.device | str) -> "Witness":
        """Return the witness on a device."""
        tensors = (self.distances, self.embeddings, self.reduced)
        distances, embeddings, reduced = (tensor.to(device) for tensor in tensors)
        return Witness(distances, self.variance, embeddings, reduced, self.unstored)

    @cached_property
    def exact(self) -> list[tuple[float, Tensor]]:
        """DCor and its gradient for each embedding, without any loss."""
        return self.against(self.distances)

    def against(self, distances: Tensor) -> list[tuple[float, Tensor]]:
        """Return dCor and its gradient for each embedding, if the images have these distances."""
        sample = Sample.of_distances(distances)
        return [_dcor(embedding, sample) for embedding in self.embeddings]


@dataclass(frozen=True)
class Loss:
    """What storing a batch of `images` loses: the errors of a `Fidelity`, in JSON values.

    `stored` and `total` are the variances of what is stored and of the unreduced vectors.
    `whitened` are the errors of dCor in `GEOMETRIES`, if they are known.
    """

    images: int
    dcor_error: float
    dcor_error_independent: float
    gradient_error: float
    stored: float
    total: float
    whitened: Sequence[float] = ()


def loss_of(witness: Witness, encoding: Encoding, *, components: int | None = None) -> Loss:
    """Measure what one batch loses if its first `components` (default: all) are stored.

    Raises StoreError if the stored type cannot hold the values.
    """
    stored = _stored(witness, encoding, components)
    found, exact = witness.against(pairwise_distances(stored)), witness.exact
    dependent, independent = (abs(a - b) for (a, _), (b, _) in zip(found, exact, strict=True))
    return Loss(
        images=len(witness.reduced),
        dcor_error=dependent,
        dcor_error_independent=independent,
        gradient_error=_relative_error(found[0][1], exact[0][1]),
        stored=_total_variance(stored),
        total=witness.variance,
        whitened=_whitened_errors(witness, stored),
    )


def fidelity_of(losses: Sequence[Loss], bytes_per_image: int) -> Fidelity:
    """Return the fidelity that the losses of some batches amount to."""
    errors = [loss.dcor_error for loss in losses]
    total = sum(loss.total for loss in losses)
    stored = sum(loss.stored for loss in losses)
    return Fidelity(
        images=sum(loss.images for loss in losses),
        dcor_error_max=max(errors),
        dcor_error_mean=sum(errors) / len(errors),
        dcor_error_independent=max(loss.dcor_error_independent for loss in losses),
        gradient_error=max(loss.gradient_error for loss in losses),
        explained_variance=min(1.0, stored / total) if total > 0 else 1.0,
        bytes_per_image=bytes_per_image,
        dcor_error_whitened=_largest([loss.whitened for loss in losses]),
    )


def measure_fidelity(
    witnesses: Sequence[Witness], encoding: Encoding, *, components: int | None = None
) -> Fidelity:
    """Measure what is lost if the first `components` (default: all) are stored by `encoding`.

    Raises StoreError if the stored type cannot hold the values.
    """
    width = components or witnesses[0].reduced.shape[1]
    losses = [loss_of(witness, encoding, components=components) for witness in witnesses]
    return fidelity_of(losses, width * encoding.itemsize)


def fewest_components(
    choice: Sequence[Witness], check: Sequence[Witness], encoding: Encoding, bound: float
) -> int:
    """Return the smallest number of components with a `dcor_error_max` of at most `bound`.

    The number is found by bisection on `choice`, then raised until `check`, which holds other
    images, meets the bound too. Raises ConfigError if even all components exceed the bound.
    """

    def error(witnesses: Sequence[Witness], components: int) -> float:
        return measure_fidelity(witnesses, encoding, components=components).dcor_error_max

    most = choice[0].reduced.shape[1]
    best = max(error(choice, most), error(check, most))
    if best > bound:
        raise ConfigError(
            f"reduce.fidelity asks for an error of dCor of at most {bound:g}; {most} principal "
            f"components have {best:.2g}. Raise the bound, or leave `reduce` out to store "
            "all dimensions."
        )
    too_few, enough = 0, most
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if error(choice, middle) <= bound:
            enough = middle
        else:
            too_few = middle
    while error(check, enough) > bound:
        enough = min(most, enough + max(1, enough // 16))
    return enough


def _stored(witness: Witness, encoding: Encoding, components: int | None) -> Tensor:
    part = encoding if components is None else encoding.first(components)
    reduced = witness.reduced[:, :components]
    stored = torch.from_numpy(part.decode(part.encode(reduced.cpu().numpy())))
    return stored.to(reduced.device)


def _whitened_errors(witness: Witness, stored: Tensor) -> list[float]:
    """Return the errors of dCor with the dependent embedding, in each of `GEOMETRIES`."""
    if witness.unstored is None:
        return []
    width = stored.shape[1]
    kept, missing = witness.reduced[:, :width], witness.unstored + len(witness.reduced[0]) - width
    deviation, typical = kept.std(0), kept.var(0).mean()
    rest = (witness.distances.square() - pairwise_distances(kept).square()).clamp(min=0)
    variance = max(0.0, witness.variance - _total_variance(kept)) / max(1, missing)
    errors = []
    for exponent in GEOMETRIES:
        divided = divisors(deviation, exponent)
        spread = deviation.new_full((), variance).sqrt()
        of_rest = divisors(spread, exponent, typical=typical)
        exact = pairwise_distances(kept / divided).square()
        exact = (exact + rest / of_rest.square() if missing else exact).sqrt()
        found = pairwise_distances(stored / divided)
        values = [
            _dcor(witness.embeddings[0], Sample.of_distances(each))[0] for each in (found, exact)
        ]
        errors.append(abs(values[0] - values[1]))
    return errors


def _largest(errors: Sequence[Sequence[float]]) -> dict[str, float]:
    if not all(errors):
        return {}
    return {f"{g:g}": max(e) for g, e in zip(GEOMETRIES, zip(*errors, strict=True), strict=True)}


def _total_variance(x: Tensor) -> float:
    return float(x.float().var(0).sum(dtype=torch.float64))


def _test_embeddings(original: Tensor, *seeds: int) -> Tensor:
    D = original.shape[1]
    # All batches share one projection; each has its own noise.
    signal = Projection.draw(D, min(TEST_WIDTH, D), seeds[0], 2).apply(original)
    signal = signal - signal.mean(0)
    noise, independent = torch.randn(2, *signal.shape, generator=generator(*seeds, 3))
    return torch.stack([signal + noise.to(signal) * signal.std(), independent.to(signal)])


def _dcor(embedding: Tensor, representation: Sample) -> tuple[float, Tensor]:
    with torch.enable_grad():
        z = embedding.detach().requires_grad_()
        value = distance_correlation(z, representation)
        (gradient,) = torch.autograd.grad(value, z)
    return float(value.detach()), gradient


def _relative_error(found: Tensor, exact: Tensor) -> float:
    tiny = torch.finfo(exact.dtype).tiny
    return float((found - exact).norm() / exact.norm().clamp_min(tiny))
