"""The geometry of stored vectors: each component centred, and divided by a power of its deviation.

Distances and cosines of vectors as stored are those of their few largest components. Which
geometry serves best depends on the representation. Mean and deviation are fixed numbers, taken
over the training images, so a vector's coordinates do not depend on the batch that it is in.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from pipeline.base.errors import ArgumentError

# The power of its deviation by which each component is divided, or PHI standardization.
Whitening = float | Literal["phi_s"]
PHI_S: Literal["phi_s"] = "phi_s"

# The least variance that a component counts with, as a share of the mean variance of all.
SHRINKAGE = 1e-3


def whitened(
    rows: Tensor,
    mean: Tensor,
    deviation: Tensor,
    whitening: Whitening,
    *,
    shrinkage: float = SHRINKAGE,
) -> Tensor:
    """Return rows (B, D), centred, each component divided by a power of its deviation.

    A `whitening` of 0 only centres, 1 standardises. `mean` and `deviation` are (D,). See `divisors`
    for the shrinkage. Raises ArgumentError if an argument is out of range, or of another width.

    `phi_s` is PHI standardization (Ranzinger et al., arXiv 2410.01680) of principal components:
    they are rotated by a Hadamard matrix, all of whose entries have one size, so that every
    dimension gets an equal share of each, and divided by one number, the root of their mean
    variance. Each dimension then varies by 1, and distances keep their proportions.
    """
    for numbers in (mean, deviation):
        if numbers.shape != rows.shape[1:]:
            raise ArgumentError(
                f"Each of {rows.shape[1:].numel()} components has a mean and a deviation; found "
                f"{tuple(numbers.shape)}."
            )
    if whitening == PHI_S:
        rotation = hadamard(len(mean)).to(rows)
        return (rows - mean) @ rotation / root_mean_variance(deviation)
    return (rows - mean) / divisors(deviation, whitening, shrinkage=shrinkage)


def root_mean_variance(deviation: Tensor) -> Tensor:
    """Return the root of the mean variance of components with these deviations (D,), never 0."""
    variance = deviation.square().mean()
    return variance.where(variance > 0, 1.0).sqrt()


def hadamard(width: int) -> Tensor:
    """Return Sylvester's Hadamard matrix (width, width), scaled to be orthogonal.

    Raises ArgumentError if the width is not a power of two.
    """
    if width < 1 or width & (width - 1):
        raise ArgumentError(
            f"A Hadamard rotation needs a power of two components; found {width}: store another "
            "number of them, such as reduce: {pca: 256}."
        )
    matrix, block = torch.ones(1, 1), torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    while len(matrix) < width:
        matrix = torch.kron(matrix, block)
    return matrix / math.sqrt(width)


def divisors(
    deviation: Tensor,
    exponent: float,
    *,
    shrinkage: float = SHRINKAGE,
    typical: Tensor | None = None,
) -> Tensor:
    """Return what each component is divided by, (D,): its shrunk deviation to the `exponent`.

    Variances s^2 are shrunk towards their mean m, or the variance `typical` if it is given:
    (1 - shrinkage) s^2 + shrinkage m, as in regularised discriminant analysis (Friedman 1989). A
    component of rounding noise is thus enlarged at most shrinkage^(-exponent / 2) times as much as
    one of mean variance: 32 times at the default, instead of without bound. If no component varies,
    all are divided by 1.
    """
    if not 0 <= exponent <= 1 or not 0 <= shrinkage <= 1:
        raise ArgumentError(
            f"Exponent and shrinkage lie between 0 and 1; found {exponent} and {shrinkage}."
        )
    variance = deviation.square()
    towards = variance.mean() if typical is None else typical
    shrunk = (1 - shrinkage) * variance + shrinkage * towards
    return shrunk.where(shrunk > 0, 1.0).pow(exponent / 2)
