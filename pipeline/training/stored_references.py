"""What training reads of stored targets before its first step: a sample of rows, and statistics."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from pipeline.loading.batch import SplitData
from pipeline.objective.references import Reference
from pipeline.objective.terms import AffinityTerm, AnyTerm, DependenceTerm, with_representation

SAMPLE = 4096  # rows, for the loss of the best constant


def stored_references(data: SplitData, terms: Mapping[str, AnyTerm]) -> dict[str, Reference]:
    """Return what the objective must know of each stored target that its terms name.

    Rows are those of the first valid images of the split, as many as the largest bank, and at
    least `SAMPLE` if there are. Tars hold shuffled images, so these are a random sample. They are
    not read for targets of dependence terms alone. Statistics are None where the store has none.
    """
    wanted: dict[str, int] = {}
    for _, term in with_representation(terms):
        name = term.representation
        if name in data.features:
            rows = 0 if isinstance(term, DependenceTerm) else SAMPLE
            rows = max(rows, term.bank) if isinstance(term, AffinityTerm) else rows
            wanted[name] = max(wanted.get(name, 0), rows)
    index = data.indices()[: max(wanted.values(), default=0)]
    return {name: _reference(data, name, index[:rows]) for name, rows in wanted.items()}


def _reference(data: SplitData, name: str, index: list[int]) -> Reference:
    feature = data.features[name]
    last = index[-1] + 1 if index else 0
    rows = feature.read(data.manifest.split, 0, last)[np.asarray(index, dtype=np.int64)]
    mean, deviation = _statistics(feature)
    return Reference(torch.from_numpy(rows).float(), torch.tensor(index), mean, deviation)


def _statistics(feature: Any) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Return mean and deviation of a feature's components, None if the store does not keep them."""
    found = feature.statistics() if hasattr(feature, "statistics") else None
    if found is None:
        return None, None
    mean, deviation = found
    return torch.from_numpy(mean), torch.from_numpy(deviation)
