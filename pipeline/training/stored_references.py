"""What training reads of stored targets before its first step: a sample of rows, and statistics."""

from collections.abc import Mapping

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
    not read for targets of dependence terms alone, and statistics only for terms with `whiten`.
    Raises StoreError, naming the command that makes them, if a feature was stored without.
    """
    rows: dict[str, int] = {}
    whitened = set()
    for _, term in with_representation(terms):
        name = term.representation
        if name in data.features:
            wanted = 0 if isinstance(term, DependenceTerm) else SAMPLE
            wanted = max(wanted, term.bank) if isinstance(term, AffinityTerm) else wanted
            rows[name] = max(rows.get(name, 0), wanted)
            whitened |= {name} if term.whiten is not None else set()
    index = data.indices()[: max(rows.values(), default=0)]
    return {
        name: _reference(data, name, index[:count], statistics=name in whitened)
        for name, count in rows.items()
    }


def _reference(data: SplitData, name: str, index: list[int], *, statistics: bool) -> Reference:
    feature, chosen = data.features[name], np.asarray(index, dtype=np.int64)
    rows = torch.zeros(0, feature.width)
    if index:
        stored = feature.read(data.manifest.split, 0, index[-1] + 1)
        rows = torch.from_numpy(stored[chosen]).float()
    if not statistics:
        return Reference(rows, torch.from_numpy(chosen))
    mean, deviation = (torch.from_numpy(numbers) for numbers in feature.statistics())
    principal = feature.reduction()[1]["components"] is not None
    return Reference(rows, torch.from_numpy(chosen), mean, deviation, principal)
