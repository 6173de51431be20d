"""What a term would be without any learning: the answer beside which its value means something.

For a term that predicts a stored target it is the loss of the best constant on training targets;
for one that compares two sides of the same image, what it is between different images; for one
that only shapes embeddings, what it is for one constant embedding.
"""

import torch
from torch import Tensor

from pipeline.dependence.distance_correlation import distance_correlation
from pipeline.objective.losses import VARIANCE_EPSILON, mean_squared_error
from pipeline.objective.regularisers import constant_gaussian_distance
from pipeline.objective.shared_batch import SharedBatch
from pipeline.objective.terms import (
    AnyTerm,
    BarlowTerm,
    DependenceTerm,
    InvarianceTerm,
    SigregTerm,
    VarianceTerm,
    ViewDependenceTerm,
)


def trivial_value(term: AnyTerm, batch: SharedBatch) -> Tensor | None:
    """Return the trivial answer of a term in this batch.

    None for a term whose trivial answer is the best possible one, and for those that predict a
    target: their best constant does not depend on the batch.
    """
    match term:
        case InvarianceTerm():
            return batch.over_pairs(
                term, lambda x, y: mean_squared_error(x.rows, y.shuffled().rows)
            )
        case ViewDependenceTerm():
            return 1 - batch.over_pairs(
                term,
                lambda x, y: distance_correlation(x, y.shuffled(), statistic=term.statistic),
            )
        case DependenceTerm():
            target = batch.representation(term.representation, term.whiten).shuffled()
            values = [
                1 - distance_correlation(x, target, statistic=term.statistic)
                for x in batch.embeddings(term, standardise=term.standardise)
            ]
            return torch.stack(values).mean()
        case VarianceTerm():
            return _filled(2 * max(0.0, term.margin - VARIANCE_EPSILON**0.5), batch)
        case BarlowTerm():
            return _filled(batch.embeddings(term)[0].rows.shape[1], batch)
        case SigregTerm():
            return _filled(constant_gaussian_distance(len(batch.embeddings(term)[0])), batch)
        case _:
            return None


def _filled(value: float, batch: SharedBatch) -> Tensor:
    # Unlike `torch.tensor`, this does not make a device wait for a copy.
    return torch.full((), value, dtype=torch.float32, device=batch.device)


def share_explained(value: float, trivial: float) -> float | None:
    """Return 1 - value / trivial: 0 for the trivial answer, 1 for a term of 0, None if undefined.

    It is negative where a term is worse than its trivial answer.
    """
    return 1 - value / trivial if trivial > 0 else None
