"""The geometry of stored vectors: each component centred, and divided by a power of its deviation.

Distances and cosines of vectors as stored are those of their few largest components. Which
geometry serves best depends on the representation. Mean and deviation are fixed numbers, taken
over the training images, so a vector's coordinates do not depend on the batch that it is in.
"""

from torch import Tensor

from pipeline.base.errors import ArgumentError

# The least variance that a component counts with, as a share of the mean variance of all.
SHRINKAGE = 1e-3


def whitened(
    rows: Tensor,
    mean: Tensor,
    deviation: Tensor,
    exponent: float,
    *,
    shrinkage: float = SHRINKAGE,
) -> Tensor:
    """Return rows (B, D), centred, each component divided by its deviation to the `exponent`.

    An exponent of 0 only centres, 1 standardises. `mean` and `deviation` are (D,). See `divisors`
    for the shrinkage. Raises ArgumentError if an argument is out of range, or of another width.
    """
    for numbers in (mean, deviation):
        if numbers.shape != rows.shape[1:]:
            raise ArgumentError(
                f"Each of {rows.shape[1:].numel()} components has a mean and a deviation; found "
                f"{tuple(numbers.shape)}."
            )
    return (rows - mean) / divisors(deviation, exponent, shrinkage=shrinkage)


def divisors(deviation: Tensor, exponent: float, *, shrinkage: float = SHRINKAGE) -> Tensor:
    """Return what each component is divided by, (D,): its shrunk deviation to the `exponent`.

    Variances s^2 are shrunk towards their mean m: (1 - shrinkage) s^2 + shrinkage m, as in
    regularised discriminant analysis (Friedman 1989). A component of rounding noise is thus
    enlarged at most shrinkage^(-exponent / 2) times as much as one of mean variance: 32 times at
    the default, instead of without bound. If no component varies, all are divided by 1.
    """
    if not 0 <= exponent <= 1 or not 0 <= shrinkage <= 1:
        raise ArgumentError(
            f"Exponent and shrinkage lie between 0 and 1; found {exponent} and {shrinkage}."
        )
    variance = deviation.square()
    shrunk = (1 - shrinkage) * variance + shrinkage * variance.mean()
    return shrunk.where(shrunk > 0, 1.0).pow(exponent / 2)
