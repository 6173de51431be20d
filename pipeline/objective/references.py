"""What an objective knows of stored targets before the first step, and what it derives from it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.features.whitening import (
    PHI_S,
    Whitening,
    divisors,
    hadamard,
    root_mean_variance,
)
from pipeline.objective.affinities import best_constant_divergence, rows_in_bank
from pipeline.objective.losses import wide
from pipeline.objective.row_losses import best_constant_loss
from pipeline.objective.terms import AffinityTerm, RegressionTerm


@dataclass(frozen=True, eq=False)
class Reference:
    """A stored target as training images have it.

    `rows` (N, D) are the targets of a random sample of training images, and `index` (N,) their
    indices within the split, increasing. `mean` and `deviation` (D,) are those of each component
    over all training images; None where the store does not know them. `uncorrelated` says that the
    components are principal ones.
    """

    rows: Tensor
    index: Tensor
    mean: Tensor | None = None
    deviation: Tensor | None = None
    uncorrelated: bool = False


class Constant:
    """A tensor that never changes, on the device and in the type of whatever it is used with.

    It is no buffer: checkpoints do not hold it, and processes do not send it to each other.
    """

    def __init__(self, value: Tensor) -> None:
        self._value = value

    def like(self, x: Tensor) -> Tensor:
        """Return it on the device and, if it is floating, in the type of `x`."""
        dtype = x.dtype if self._value.is_floating_point() else self._value.dtype
        if (self._value.device, self._value.dtype) != (x.device, dtype):
            with torch.inference_mode(False):  # so that a later training step may use it
                self._value = self._value.to(x.device, dtype)
        return self._value


class Geometry:
    """Centring and whitening of a stored target, with mean and deviation of its components (D,).

    Raises ArgumentError for a PHI standardization of a width that is not a power of two.
    """

    def __init__(self, mean: Tensor, deviation: Tensor, whitening: Whitening) -> None:
        self._mean, self._rotation = Constant(wide(mean)), None
        if whitening == PHI_S:
            self._rotation = Constant(hadamard(len(mean)))
            self._divisors = Constant(root_mean_variance(wide(deviation)))
        else:
            self._divisors = Constant(divisors(wide(deviation), whitening))

    def __call__(self, rows: Tensor) -> Tensor:
        """Return rows (B, D) in this geometry; see `whitening.whitened`."""
        rows = rows - self._mean.like(rows)
        if self._rotation is not None:
            rows = rows @ self._rotation.like(rows)
        return rows / self._divisors.like(rows)


class Bank:
    """The fixed bank of an affinity term: stored targets of the first images of a reference."""

    def __init__(self, term: AffinityTerm, reference: Reference, geometry: Geometry | None) -> None:
        rows = wide(reference.rows[: term.bank])
        mean = rows.mean(0)
        self._geometry = geometry or Geometry(mean, torch.ones_like(mean), 0)
        self._rows = Constant(self._geometry(rows))
        self._index = Constant(reference.index[: term.bank])
        self._temperature = term.target_temperature
        self._leave_out_own = term.leave_out_own

    def rows(self, like: Tensor) -> Tensor:
        """Return the bank (M, D)."""
        return self._rows.like(like)

    def centred(self, targets: Tensor) -> Tensor:
        """Return targets (B, D) in the bank's geometry."""
        return self._geometry(targets)

    def own(self, index: Tensor | None) -> Tensor | None:
        """Return the row of the bank that each image is, or `NOWHERE`, from its index (B,).

        Returns None if no row is to be left out.
        """
        if index is None or not self._leave_out_own:
            return None
        return rows_in_bank(index, self._index.like(index))

    def best_constant(self) -> Tensor:
        """Return the divergence of the best constant, over the images of the bank."""
        rows = self._rows.like(torch.zeros(0))
        own = torch.arange(len(rows)) if self._leave_out_own else None
        return best_constant_divergence(rows, rows, target_temperature=self._temperature, own=own)


def best_constant_regression(
    term: RegressionTerm, reference: Reference, geometry: Geometry | None
) -> Tensor:
    """Return the loss of the best constant over the sample of a reference."""
    rows = wide(reference.rows)
    return best_constant_loss(term.loss, rows if geometry is None else geometry(rows))
