"""Storing a representation in fewer numbers, with a measured promise.

Distance correlation sees a representation only through the distances between images, so an
orthogonal projection that keeps the distances keeps the objective. `fit_reduction` makes one
from a sample of images; `measure_fidelity` says, on other images, what it costs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator
from torch import Tensor

from pipeline.config import Options
from pipeline.dependence import distance_correlation, full_precision
from pipeline.errors import ConfigError, DataError, StoreError
from pipeline.runtime import generator

Components = Annotated[int, Field(ge=1)]
Array = npt.NDArray[Any]

# Up to this many rows or columns, components come from all of the sample, else from a sketch
# of it with so many directions to spare, refined by so many rounds of power iteration.
EXACT_LIMIT = 1024
SPARE_DIRECTIONS = 64
POWER_ROUNDS = 2
# A wider projection before PCA would cost more in its basis than it gains in fidelity.
PROJECTED_WIDTH_LIMIT = 65_536
BLOCK_NUMBERS = 1 << 24
TEST_WIDTH = 64


class ReduceOptions(Options):
    """`features.<name>.reduce`: {pca: K}, {projection: K}, or {} for all dimensions."""

    pca: Components | None = None
    projection: Components | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> "ReduceOptions":
        if self.pca is not None and self.projection is not None:
            raise ValueError("reduce takes either pca or projection, not both")
        return self


@dataclass(frozen=True, eq=False)
class Projection:
    """A sparse random projection from D to `width` numbers that keeps distances on average.

    Input i, multiplied by `signs[i]` (+-1), is added to output `outputs[i]`; every output gets
    equally many inputs, give or take one. Its error is no larger than that of a dense Gaussian
    matrix of that width: the squared length of v has a variance of at most
    2 / width (|v|^4 - sum_i v_i^4). But it takes D additions an image, and its whole matrix is
    2 D small numbers, where the dense one would be drawn anew for every batch or take gigabytes.
    """

    outputs: Tensor
    signs: Tensor
    width: int

    @classmethod
    def draw(cls, input_width: int, width: int, *seeds: int) -> "Projection":
        """Return the projection of `seeds`; ConfigError if it would not make vectors shorter."""
        if width > input_width:
            raise ConfigError(
                f"A projection to {width} numbers needs at least as many to start from; "
                f"the representation has {input_width}. Lower it, or store all of them."
            )
        random = generator(*seeds)
        outputs = torch.randperm(input_width, generator=random) % width
        signs = torch.randint(0, 2, (input_width,), generator=random).float() * 2 - 1
        return cls(outputs, signs, width)

    def apply(self, x: Tensor) -> Tensor:
        """Map (B, D) to (B, width), some rows at a time."""
        outputs, signs = self.outputs.to(x.device), self.signs.to(x.device)
        result = torch.zeros((len(x), self.width), device=x.device)
        rows = max(1, BLOCK_NUMBERS // x.shape[1])
        for part, sums in zip(torch.split(x, rows), torch.split(result, rows), strict=True):
            sums.index_add_(1, outputs, part.float() * signs)
        return result


@dataclass(frozen=True, eq=False)
class Pca:
    """Scores on principal axes: mean (D,) and an orthonormal basis (D, K), float32.

    `explained_variance` is the part of the fitted sample's variance that the K axes hold.
    """

    mean: Tensor
    basis: Tensor
    explained_variance: float

    def apply(self, x: Tensor) -> Tensor:
        """Map (B, D) to scores (B, K)."""
        with full_precision(x.device):
            return (x.float() - self.mean.to(x.device)) @ self.basis.to(x.device)

    def restore(self, scores: Tensor) -> Tensor:
        """Map scores (B, K) to the nearest vectors (B, D) that have them."""
        with full_precision(scores.device):
            basis, mean = self.basis.to(scores.device), self.mean.to(scores.device)
            return scores.float() @ basis.T + mean


@dataclass(frozen=True, eq=False)
class Reduction:
    """A projection, then a PCA; either may be missing, and without both nothing is reduced."""

    projection: Projection | None = None
    pca: Pca | None = None

    def apply(self, x: Tensor) -> Tensor:
        """Map representations (B, D) to what is stored, (B, K) float32."""
        x = x.float()
        if self.projection is not None:
            x = self.projection.apply(x)
        return x if self.pca is None else self.pca.apply(x)

    def restore(self, reduced: Tensor) -> Tensor:
        """Map (B, K) back to (B, D); StoreError after a projection, which has no inverse."""
        if self.projection is not None:
            raise StoreError("A random projection cannot be undone; use pca to restore vectors.")
        return reduced.float() if self.pca is None else self.pca.restore(reduced)

    def arrays(self) -> dict[str, Array]:
        """Return what `load` needs, all floating point so that a store can mark gaps by NaN."""
        arrays: dict[str, Array] = {}
        if self.projection is not None:
            arrays["outputs"] = self.projection.outputs.numpy().astype(np.float64)
            arrays["signs"] = self.projection.signs.numpy()
        if self.pca is not None:
            arrays["mean"] = self.pca.mean.numpy()
            arrays["basis"] = self.pca.basis.numpy()
        return arrays

    def attributes(self) -> dict[str, str | int | float | None]:
        """Return the rest of what `load` needs, as JSON values."""
        return {
            "projection_width": self.projection.width if self.projection else None,
            "explained_variance": self.pca.explained_variance if self.pca else None,
        }

    @classmethod
    def load(cls, arrays: Mapping[str, Array], attributes: Mapping[str, Any]) -> "Reduction":
        """Return the reduction of `arrays()` and `attributes()`; StoreError if some are missing."""
        tensors = {name: torch.from_numpy(np.array(values)) for name, values in arrays.items()}
        projection, pca = None, None
        try:
            if attributes["projection_width"] is not None:
                projection = Projection(
                    tensors["outputs"].long(), tensors["signs"], attributes["projection_width"]
                )
            if attributes["explained_variance"] is not None:
                pca = Pca(tensors["mean"], tensors["basis"], attributes["explained_variance"])
        except KeyError as error:
            raise StoreError(f"The stored reduction lacks {error}: extract it again.") from error
        return cls(projection, pca)


def fit_reduction(
    sample: Tensor, options: ReduceOptions, *, seed: int, memory_bytes: int = 2 << 30
) -> Reduction:
    """Return the reduction that `options` ask for, fitted on representations (N, D)."""
    if options.pca is not None:
        return fit_pca(sample, options.pca, seed=seed, memory_bytes=memory_bytes)
    if options.projection is not None:
        return Reduction(Projection.draw(sample.shape[1], options.projection, seed))
    return Reduction()


def fit_pca(
    sample: Tensor, components: int, *, seed: int, memory_bytes: int = 2 << 30
) -> Reduction:
    """Return a PCA to `components` numbers, fitted on representations (N, D).

    Exact where N or D is at most `EXACT_LIMIT`, else by a randomised range finder (Halko,
    Martinsson and Tropp 2011, algorithm 4.4), never with a D x D matrix. A sample of more than
    `memory_bytes` in float32 goes through a random projection that fits in it first. Besides
    the sample, about three times `memory_bytes` are used at most. Raises ConfigError if the
    sample has fewer rows or columns than components, DataError if it is not finite.
    """
    N, D = sample.shape
    if components > min(N, D):
        raise ConfigError(
            f"{components} principal components need at least as many images and numbers an image "
            f"to be fitted on; found {N} images of {D} numbers. Lower `pca`."
        )
    projection = None
    if memory_bytes < N * D * 4:
        width = max(2 * components, min(memory_bytes // (4 * N), PROJECTED_WIDTH_LIMIT))
        projection = Projection.draw(D, min(width, D), seed)
        sample = projection.apply(sample)
    mean = sample.mean(0, dtype=torch.float64).float()
    centred = sample.float() - mean
    total = float(centred.square().sum(dtype=torch.float64))
    if not np.isfinite(total):
        raise DataError("The representation has values that are not finite: PCA cannot be fitted.")
    with full_precision(centred.device):
        axes, held = _principal_axes(_condense(centred, components, seed), components)
    return Reduction(projection, Pca(mean, axes, held / total if total > 0 else 1.0))


def _condense(x: Tensor, components: int, seed: int) -> Tensor:
    """Return rows (L, D) that span nearly all that the leading axes of x (N, D) span."""
    N, D = x.shape
    if min(N, D) <= EXACT_LIMIT:
        return x
    directions = min(components + SPARE_DIRECTIONS, N, D)
    found = x @ torch.randn(D, directions, generator=generator(seed, 1)).to(x.device)
    for _ in range(POWER_ROUNDS):
        found = x @ _orthonormal(x.T @ _orthonormal(found))
    return _orthonormal(found).T @ x


def _principal_axes(rows: Tensor, components: int) -> tuple[Tensor, float]:
    """Return the leading axes (D, K) of centred rows (N, D), and the sum of their variances.

    From the smaller of the two Gram matrices, in float64; axes beyond the rank of the rows are
    arbitrary, but orthogonal to the others.
    """
    wide = len(rows) < rows.shape[1]
    values, vectors = torch.linalg.eigh(_gram(rows) if wide else _gram(rows.T))
    values, vectors = values.flip(0)[:components], vectors.flip(1)[:, :components].float()
    axes = _orthonormal(rows.T @ vectors if wide else vectors)
    return axes.contiguous(), float(values.clamp_min(0).sum())


def _gram(x: Tensor) -> Tensor:
    """Return x x^T (N, N) in float64, from some columns of x (N, D) at a time."""
    gram = x.new_zeros((len(x), len(x)), dtype=torch.float64)
    for block in torch.split(x, max(1, BLOCK_NUMBERS // len(x)), dim=1):
        wide = block.double()
        gram += wide @ wide.T
    return gram


def _orthonormal(x: Tensor) -> Tensor:
    basis: Tensor = torch.linalg.qr(x)[0]
    return basis


@dataclass(frozen=True)
class Fidelity:
    """What storing a reduced representation costs the objective, on images outside the fit.

    Errors of dCor (absolute) and of its gradient with respect to an embedding (relative, in the
    Euclidean norm; the largest) are over batches and two embeddings; see `measure_fidelity`.
    `explained_variance` is the total variance of what is stored over that of the original,
    at most 1: rounding adds some.
    """

    dcor_error_max: float
    dcor_error_mean: float
    gradient_error: float
    explained_variance: float
    bytes_per_image: int


def measure_fidelity(original: Tensor, reduced: Tensor, *, batch: int = 256, seed: int) -> Fidelity:
    """Compare representations (M, D) with what is stored of them (M, K), in its stored type.

    dCor is taken with two embeddings: one that depends on the representation (a random
    projection of it with noise of equal power, so that dCor is well inside (0, 1)), and one of
    independent Gaussian noise. Rows that do not fill a batch are left out. Raises DataError for
    fewer than 2 rows, or where the stored type cannot hold the values.
    """
    if len(original) != len(reduced) or len(original) < 2:
        raise DataError(
            "Fidelity compares at least 2 images with what is stored of them; "
            f"found {len(original)} and {len(reduced)}."
        )
    if not bool(torch.isfinite(reduced).all()):
        raise DataError(f"Some values are too large for {reduced.dtype}: use dtype float32.")
    batch = min(batch, len(original))
    dcor_errors, gradient_errors = [], []
    for embedding in _test_embeddings(original, seed):
        for first in range(0, len(original) - batch + 1, batch):
            rows = slice(first, first + batch)
            exact, exact_gradient = _dcor(embedding[rows], original[rows])
            stored, stored_gradient = _dcor(embedding[rows], reduced[rows])
            dcor_errors.append(abs(stored - exact))
            gradient_errors.append(_relative_error(stored_gradient, exact_gradient))
    variances = [float(x.float().var(0).sum(dtype=torch.float64)) for x in (original, reduced)]
    return Fidelity(
        dcor_error_max=max(dcor_errors),
        dcor_error_mean=sum(dcor_errors) / len(dcor_errors),
        gradient_error=max(gradient_errors),
        explained_variance=min(1.0, variances[1] / variances[0]) if variances[0] > 0 else 1.0,
        bytes_per_image=reduced.shape[1] * reduced.element_size(),
    )


def _test_embeddings(original: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    D = original.shape[1]
    signal = Projection.draw(D, min(TEST_WIDTH, D), seed, 2).apply(original)
    signal = signal - signal.mean(0)
    random = generator(seed, 3)
    noise, independent = torch.randn(2, len(original), signal.shape[1], generator=random)
    return signal + noise.to(signal) * signal.std(), independent.to(signal)


def _dcor(embedding: Tensor, representation: Tensor) -> tuple[float, Tensor]:
    with torch.enable_grad():
        z = embedding.detach().requires_grad_()
        value = distance_correlation(z, representation)
        (gradient,) = torch.autograd.grad(value, z)
    return float(value.detach()), gradient


def _relative_error(found: Tensor, exact: Tensor) -> float:
    tiny = torch.finfo(exact.dtype).tiny
    return float((found - exact).norm() / exact.norm().clamp_min(tiny))
