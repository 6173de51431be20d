"""Affinities to a bank of stored targets: a distillation loss that compares whom an image is near.

SEED (Fang et al., arXiv 2101.04731) and CompRess (Abbasi Koohpayegani et al., arXiv 2010.14713)
compare softmax similarities to a queue of embeddings. Stored targets do not change, so here the
queue is a fixed sample of them.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.base.arguments import require_matrix
from pipeline.base.errors import ArgumentError
from pipeline.objective.losses import require_equal_shapes, wide

NOWHERE = -1


def affinity_divergence(
    predicted: Sequence[Tensor],
    targets: Tensor,
    bank: Tensor,
    *,
    temperature: float,
    target_temperature: float,
    own: Tensor | None = None,
) -> Tensor:
    """Return the mean over rows, and over the predictions of several views, of KL(q_i || p_i).

    q_i and p_i are the softmax over the rows of `bank` (M, D) of their cosines with row i of
    `targets` (B, D) and of a prediction (B, D), over the temperatures. `own` (B,) int64 is the row
    of the bank that a target is itself, or `NOWHERE`; that row is left out of both. The divergence
    is at least 0.
    """
    if not predicted:
        raise ArgumentError("A divergence needs the predictions of at least one view; found none.")
    q = log_affinities(targets, bank, temperature=target_temperature, own=own)
    divergences = []
    for rows in predicted:
        require_equal_shapes(rows, targets)
        p = log_affinities(rows, bank, temperature=temperature, own=own)
        divergences.append(_divergence(q, p))
    return torch.stack(divergences).mean()


def best_constant_divergence(
    targets: Tensor, bank: Tensor, *, target_temperature: float, own: Tensor | None = None
) -> Tensor:
    """Return the mean of KL(q_i || p) for the best p that is the same for all targets (N, D).

    It is the mean of all q_i. Where a row is left out, its probability in p is divided among the
    others.
    """
    q = log_affinities(targets, bank, temperature=target_temperature, own=own)
    mean = q.exp().mean(0).log().expand_as(q)
    return _divergence(q, torch.log_softmax(_without(mean, own), dim=1))


def log_affinities(
    rows: Tensor, bank: Tensor, *, temperature: float, own: Tensor | None = None
) -> Tensor:
    """Return the log-softmax (B, M) of the cosines of rows (B, D) with a bank (M, D)."""
    require_matrix(rows, "A batch")
    require_matrix(bank, "A bank")
    if not len(bank) or bank.shape[1] != rows.shape[1] or not temperature > 0:
        raise ArgumentError(
            f"Affinities need a bank of rows of {rows.shape[1]} numbers, and a temperature above "
            f"0; found {tuple(bank.shape)} and {temperature}."
        )
    if own is not None and own.shape != rows.shape[:1]:
        raise ArgumentError(
            f"Each of {len(rows)} rows has one row of the bank as its own; found "
            f"{tuple(own.shape)}."
        )
    cosines = F.normalize(wide(rows), dim=1) @ F.normalize(wide(bank), dim=1).T
    return torch.log_softmax(_without(cosines / temperature, own), dim=1)


def rows_in_bank(index: Tensor, bank_index: Tensor) -> Tensor:
    """Return the row of the bank with the same index (B,), or `NOWHERE`.

    `bank_index` (M,) must increase.
    """
    place = torch.searchsorted(bank_index, index).clamp(max=len(bank_index) - 1)
    return torch.where(bank_index[place] == index, place, NOWHERE)


def _without(logits: Tensor, own: Tensor | None) -> Tensor:
    if own is None:
        return logits
    columns = torch.arange(logits.shape[1], device=logits.device)
    return logits.masked_fill(columns == own[:, None], -torch.inf)


def _divergence(q: Tensor, p: Tensor) -> Tensor:
    # Where q is 0, its logarithm is -inf, and the term of the sum is 0.
    weight = q.exp()
    return torch.where(weight == 0, 0.0, weight * (q - p)).sum(1).mean()
