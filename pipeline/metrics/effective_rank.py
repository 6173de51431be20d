"""Effective rank: how many dimensions an embedding really uses."""

import torch
from torch import Tensor

from pipeline.base.arguments import require_features


def effective_rank(embeddings: Tensor) -> float:
    """Return exp(entropy) of the normalised singular values of embeddings (N, D).

    It is between 1 and min(N, D), or 0 if every embedding is zero. This is RankMe (Garrido et
    al., arXiv 2210.02885): embeddings are not centred, so a large common mean lowers it.
    Raises DataError unless they are a non-empty, finite matrix.
    """
    require_features(embeddings)
    # Singular values come from the smaller Gram matrix, in float64 because it squares them.
    matrix = embeddings if embeddings.shape[0] >= embeddings.shape[1] else embeddings.T
    gram = torch.zeros(matrix.shape[1], matrix.shape[1], dtype=torch.float64, device=matrix.device)
    for rows in torch.split(matrix, 8192):
        gram += rows.double().T @ rows.double()
    singular = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    total = singular.sum()
    if total == 0:
        return 0.0
    return float(torch.special.entr(singular / total).sum().exp())
