"""What a network computes, in a few numbers: its vectors of fixed trial images, projected.

A digest of weights does not tell what code does with them: a stride, an activation, a preparation.
These numbers do, and unlike a digest of source text they stay when only the text changes.
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from torch import Tensor

TrialVectors: TypeAlias = Sequence[Sequence[float]]

COMPONENTS = 8
DIGITS = 6


def trial_vectors(vectors: Tensor) -> list[list[float]]:
    """Return vectors (N, D) of trial images in 8 numbers each, from fixed random directions."""
    rows = vectors.detach().double().cpu().numpy()
    width = rows.shape[1]
    draws = np.random.RandomState(0)  # NumPy never changes its numbers
    projected = rows @ draws.standard_normal((width, COMPONENTS)) / np.sqrt(width)
    return [[float(f"{number:.{DIGITS}g}") for number in row] for row in projected]


def agree(found: TrialVectors, recorded: TrialVectors, *, within: float) -> bool:
    """Return whether each pair of vectors differs by at most a share of the recorded one's norm."""
    one, other = np.asarray(found, np.float64), np.asarray(recorded, np.float64)
    if one.shape != other.shape:
        return False
    error = np.linalg.norm(one - other, axis=1)
    return bool((error <= within * np.linalg.norm(other, axis=1)).all())
