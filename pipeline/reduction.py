"""Storing a representation in fewer numbers.

Distance correlation sees a representation only through the distances between images, so an
orthogonal projection that keeps the distances keeps the objective. What that costs, on images
that the fit has not seen, `pipeline/fidelity.py` measures.
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
from pipeline.dependence import full_precision
from pipeline.errors import ConfigError, DataError, StoreError
from pipeline.runtime import Progress, Silent, generator

Components = Annotated[int, Field(ge=1)]
Array = npt.NDArray[Any]

# Up to this many rows or columns, components come from all of the sample, else from a sketch
# of it with so many directions to spare, refined by so many rounds of power iteration.
EXACT_LIMIT = 1024
SPARE_DIRECTIONS = 64
POWER_ROUNDS = 2
PASSES = 2 * POWER_ROUNDS + 3  # over the sample and what is left of it, each about as long
# A wider representation goes through a random projection to this width before its PCA: the
# sample that is fitted stays small, and a wider one would cost more than it gains in fidelity.
PROJECTED_WIDTH = 65_536
# Components that are tried where their number is to be found.
MOST_COMPONENTS = 1024
BLOCK_NUMBERS = 1 << 24


class ReduceOptions(Options):
    """`features.<name>.reduce`: how a vector is made shorter; {} keeps all dimensions.

    {pca: K}: K principal components, or as many as the images that they are fitted on allow;
    {projection: K}; or {fidelity: E}: as few principal components as keep the largest error of
    dCor, on images that neither fit nor choice have seen, at most E.
    """

    pca: Components | None = None
    projection: Components | None = None
    fidelity: Annotated[float, Field(gt=0, lt=1)] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> "ReduceOptions":
        if len(self.model_dump(exclude_none=True)) > 1:
            raise ValueError("reduce takes one of pca, projection and fidelity")
        return self

    @property
    def by_components(self) -> bool:
        """Whether principal components are fitted."""
        return self.pca is not None or self.fidelity is not None


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

    `variance_ratio` (K,) is the part of the fitted sample's variance that each axis holds.
    """

    mean: Tensor
    basis: Tensor
    variance_ratio: Tensor

    @property
    def explained_variance(self) -> float:
        """Part of the fitted sample's variance that the K axes hold."""
        return min(1.0, float(self.variance_ratio.sum()))

    def first(self, components: int) -> "Pca":
        """Return the leading components alone."""
        return Pca(self.mean, self.basis[:, :components], self.variance_ratio[:components])

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

    def width(self, original: int) -> int:
        """Return the numbers K that are left of `original` ones."""
        if self.pca is not None:
            return self.pca.basis.shape[1]
        return original if self.projection is None else self.projection.width

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
            arrays["variance_ratio"] = self.pca.variance_ratio.numpy()
        return arrays

    def attributes(self) -> dict[str, int | None]:
        """Return the rest of what `load` needs, as JSON values."""
        return {
            "projection_width": self.projection.width if self.projection else None,
            "components": len(self.pca.variance_ratio) if self.pca else None,
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
            if attributes["components"] is not None:
                pca = Pca(tensors["mean"], tensors["basis"], tensors["variance_ratio"])
        except KeyError as error:
            raise StoreError(f"The stored reduction lacks {error}: extract it again.") from error
        return cls(projection, pca)


def first_projection(width: int, options: ReduceOptions, *, seed: int) -> Projection | None:
    """Return what `options` draw, before anything is fitted, for vectors of `width` numbers."""
    if options.projection is not None:
        return Projection.draw(width, options.projection, seed)
    if options.by_components and width > PROJECTED_WIDTH:
        return Projection.draw(width, PROJECTED_WIDTH, seed)
    return None


def components_of(options: ReduceOptions, images: int, width: int) -> int:
    """Return how many principal components `options` give, fitted on so many images of a width.

    N images lie in N - 1 dimensions around their mean: a further axis would be arbitrary, and
    other images would not be described by it.
    """
    return min(options.pca or MOST_COMPONENTS, max(1, images - 1), width)


def fit_pca(sample: Tensor, components: int, *, seed: int, progress: Progress | None = None) -> Pca:
    """Return a PCA to `components` numbers, fitted on vectors (N, D).

    Exact where N or D is at most `EXACT_LIMIT`, else by a randomised range finder (Halko,
    Martinsson and Tropp 2011, algorithm 4.4), never with a D x D matrix. `progress` advances by
    `PASSES` in all. Raises ConfigError if the sample has fewer rows or columns than components,
    DataError if it is not finite.
    """
    progress = progress or Silent()
    N, D = sample.shape
    if components > min(N, D):
        raise ConfigError(
            f"{components} principal components need at least as many images and numbers an image "
            f"to be fitted on; found {N} images of {D} numbers. Lower `pca`."
        )
    mean = sample.mean(0, dtype=torch.float64).float()
    centred = sample.float() - mean
    rows = max(1, BLOCK_NUMBERS // D)  # a sum in float64 would widen all of the sample at once
    total = sum(float(x.square().sum(dtype=torch.float64)) for x in torch.split(centred, rows))
    if not np.isfinite(total):
        raise DataError("The representation has values that are not finite: PCA cannot be fitted.")
    with full_precision(centred.device):
        condensed = _condense(centred, components, seed, progress)
        axes, variances = _principal_axes(condensed, components)
    progress.advance(1)
    even = torch.full((components,), 1 / components)  # nothing varies, so nothing is lost
    return Pca(mean, axes, variances / total if total > 0 else even)


def _condense(x: Tensor, components: int, seed: int, progress: Progress) -> Tensor:
    """Return rows (L, D) that span nearly all that the leading axes of x (N, D) span."""
    N, D = x.shape
    if min(N, D) <= EXACT_LIMIT:
        progress.advance(PASSES - 1)
        return x
    directions = min(components + SPARE_DIRECTIONS, N, D)
    found = x @ torch.randn(D, directions, generator=generator(seed, 1)).to(x.device)
    progress.advance(1)
    for _ in range(POWER_ROUNDS):
        across = x.T @ _orthonormal(found)
        progress.advance(1)
        found = x @ _orthonormal(across)
        progress.advance(1)
    rows = _orthonormal(found).T @ x
    progress.advance(1)
    return rows


def _principal_axes(rows: Tensor, components: int) -> tuple[Tensor, Tensor]:
    """Return the leading axes (D, K) of centred rows (N, D), and the squared lengths on each.

    From the smaller of the two Gram matrices, in float64; axes beyond the rank of the rows are
    arbitrary, but orthogonal to the others.
    """
    wide = len(rows) < rows.shape[1]
    values, vectors = torch.linalg.eigh(_gram(rows) if wide else _gram(rows.T))
    values, vectors = values.flip(0)[:components], vectors.flip(1)[:, :components].float()
    axes = _orthonormal(rows.T @ vectors if wide else vectors)
    return axes.contiguous(), values.clamp_min(0).float().cpu()


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
