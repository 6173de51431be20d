"""What storing a representation costs the objective, on images that no fit has seen.

The unreduced vectors of a batch can take gigabytes. All that distance correlation needs of them
are the distances between them, so a worker makes a `Witness` of each batch, and the rest is
arithmetic on those: for one reduction, or for every number of components to choose among.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pipeline.base.errors import ConfigError, DataError
from pipeline.base.seeds import generator
from pipeline.dependence.distance_correlation import Sample, distance_correlation
from pipeline.dependence.distances import pairwise_distances
from pipeline.features.encoding import Encoding
from pipeline.features.projection import Projection

TEST_WIDTH = 64


@dataclass(frozen=True)
class Fidelity:
    """What is lost by storing, over batches of so many `images`.

    Errors of dCor are absolute, that of its gradient with respect to an embedding is relative,
    in the Euclidean norm, the largest. The embedding depends on the representation, as an
    encoder's does: a random projection of it with noise of equal power, so that dCor is well
    inside (0, 1). `dcor_error_independent` is the largest error for pure noise, which no encoder
    gives: the hardest case, as all of its dCor is bias. `explained_variance` is the part of the
    total variance of the representation that is stored.
    """

    images: int
    dcor_error_max: float
    dcor_error_mean: float
    dcor_error_independent: float
    gradient_error: float
    explained_variance: float
    bytes_per_image: int


@dataclass(frozen=True, eq=False)
class Witness:
    """A batch of B images as it was before reduction, and `reduced` (B, K) as it is after it.

    `distances` (B, B) and total `variance` are those of the unreduced vectors, `embeddings`
    (2, B, TEST_WIDTH) the dependent and the independent one.
    """

    distances: Tensor
    variance: float
    embeddings: Tensor
    reduced: Tensor

    @classmethod
    def of(cls, original: Tensor, reduced: Tensor, *seeds: int) -> "Witness":
        """Witness vectors (B, D) and what they are reduced to, (B, K), before encoding.

        Raises DataError for fewer than 2 rows, or another number of them.
        """
        if len(original) != len(reduced) or len(original) < 2:
            raise DataError(
                "Fidelity compares at least 2 images with what is stored of them; "
                f"found {len(original)} and {len(reduced)}."
            )
        return cls(
            pairwise_distances(original),
            _total_variance(original),
            _test_embeddings(original, *seeds),
            reduced.float(),
        )

    @cached_property
    def exact(self) -> list[tuple[float, Tensor]]:
        """DCor and its gradient, by embedding, with nothing lost."""
        return self.against(self.distances)

    def against(self, distances: Tensor) -> list[tuple[float, Tensor]]:
        """DCor and its gradient, by embedding, where the representation has these distances."""
        sample = Sample.of_distances(distances)
        return [_dcor(embedding, sample) for embedding in self.embeddings]


def measure_fidelity(
    witnesses: Sequence[Witness], encoding: Encoding, *, components: int | None = None
) -> Fidelity:
    """Say what is lost where the first `components` (all by default) are stored by `encoding`.

    Raises StoreError where the stored type cannot hold the values.
    """
    dependent, independent, gradients, kept = [], [], [], 0.0
    for witness in witnesses:
        stored = _stored(witness, encoding, components)
        found, exact = witness.against(pairwise_distances(stored)), witness.exact
        errors = [abs(a - b) for (a, _), (b, _) in zip(found, exact, strict=True)]
        dependent.append(errors[0])
        independent.append(errors[1])
        gradients.append(_relative_error(found[0][1], exact[0][1]))
        kept += _total_variance(stored)
    whole = sum(witness.variance for witness in witnesses)
    width = components or witnesses[0].reduced.shape[1]
    return Fidelity(
        images=sum(len(witness.reduced) for witness in witnesses),
        dcor_error_max=max(dependent),
        dcor_error_mean=sum(dependent) / len(dependent),
        dcor_error_independent=max(independent),
        gradient_error=max(gradients),
        explained_variance=min(1.0, kept / whole) if whole > 0 else 1.0,
        bytes_per_image=width * encoding.itemsize,
    )


def fewest_components(
    choice: Sequence[Witness], check: Sequence[Witness], encoding: Encoding, bound: float
) -> int:
    """Return the smallest number of components with a `dcor_error_max` of at most `bound`.

    It is found by bisection on `choice` and raised until `check`, other images, agree. Raises
    ConfigError if all components together do not reach the bound.
    """

    def error(witnesses: Sequence[Witness], components: int) -> float:
        return measure_fidelity(witnesses, encoding, components=components).dcor_error_max

    most = choice[0].reduced.shape[1]
    best = max(error(choice, most), error(check, most))
    if best > bound:
        raise ConfigError(
            f"reduce.fidelity asks for an error of dCor of at most {bound:g}; {most} principal "
            f"components have {best:.2g}. Raise it, or leave `reduce` out to store all dimensions."
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
    reduced = witness.reduced[:, :components].cpu().numpy()
    return torch.from_numpy(part.decode(part.encode(reduced)))


def _total_variance(x: Tensor) -> float:
    return float(x.float().var(0).sum(dtype=torch.float64))


def _test_embeddings(original: Tensor, *seeds: int) -> Tensor:
    D = original.shape[1]
    # One projection for all batches; the noise is another one in each.
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
