"""The objective of a batch: the weighted sum of its terms. `terms.py` holds their options."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.base.errors import ConfigError, TrainingError, unknown_name
from pipeline.base.precision import full_precision
from pipeline.dependence.distance_correlation import Sample, distance_correlation
from pipeline.dependence.gathering import gather_rows
from pipeline.objective.losses import (
    cosine_distance,
    covariance_penalty,
    mean_squared_error,
    standardised,
    variance_hinge,
)
from pipeline.objective.terms import (
    AnyTerm,
    CovarianceTerm,
    DependenceTerm,
    InvarianceTerm,
    RegressionTerm,
    VarianceTerm,
    View,
    ViewDependenceTerm,
    active,
    representations_of,
)

ROW_LOSSES = {"cosine": cosine_distance, "squared": mean_squared_error}


@dataclass(frozen=True)
class Activations:
    """Embeddings of a batch by view: h (B, h_width) of the backbone, z (B, z_width) projected.

    Only the views and layers that the objective needs must be present.
    """

    h: Mapping[View, Tensor]
    z: Mapping[View, Tensor]


@dataclass(frozen=True)
class ObjectiveValue:
    """The weighted sum, and each unweighted term by name, in the order of the experiment file."""

    total: Tensor
    terms: dict[str, Tensor]


class Objective(nn.Module):
    """Weighted terms over a batch, with the linear heads of the regression terms.

    The caller encodes `views`, runs the projector if `needs_projector`, and provides
    `representations`. With `gather`, terms in training mode are those of the batch of all ranks,
    which must then have equally many rows each. Heads are initialised from the global generator.
    """

    def __init__(
        self,
        terms: Mapping[str, AnyTerm],
        *,
        h_width: int,
        z_width: int,
        representation_widths: Mapping[str, int],
        gather: bool = False,
    ) -> None:
        """Raise ConfigError if no term has a weight, or a representation has no width."""
        super().__init__()
        self.terms = active(terms)
        if not self.terms:
            raise ConfigError("The objective needs at least one term whose weight is not 0.")
        self.views = frozenset(view for term in self.terms.values() for view in term.views)
        self.needs_projector = any(term.on == "z" for term in self.terms.values())
        self.representations = representations_of(self.terms)
        self._gather = gather
        for name in self.representations:
            if name not in representation_widths:
                raise ConfigError(unknown_name("representation", name, representation_widths))
        embedding_widths = {"h": h_width, "z": z_width}
        # The prefix keeps names such as "keys" clear of ModuleDict's own attributes.
        self.heads = nn.ModuleDict(
            {
                f"to_{name}": nn.Linear(
                    embedding_widths[term.on], representation_widths[term.representation]
                )
                for name, term in self.terms.items()
                if isinstance(term, RegressionTerm)
            }
        )

    def forward(
        self, activations: Activations, representations: Mapping[str, Tensor]
    ) -> ObjectiveValue:
        """Return the objective of a batch; representations are (B, width) of any float type.

        Everything is computed in at least float32, even inside autocast. Values that are not
        finite are returned as they are. Raises TrainingError if something is missing from the
        batch, or if the batch has too few rows for a term.
        """
        gather = self._gather and self.training
        batch = _Batch(activations, representations, gather=gather)
        with full_precision(batch.device):
            values = {name: self._value(name, term, batch) for name, term in self.terms.items()}
        total = _sum(term.weight * values[name] for name, term in self.terms.items())
        return ObjectiveValue(total, values)

    def _value(self, name: str, term: AnyTerm, batch: "_Batch") -> Tensor:
        match term:
            case InvarianceTerm():
                return mean_squared_error(*batch.rows(term))
            case VarianceTerm():
                return _sum(variance_hinge(x, margin=term.margin) for x in batch.rows(term))
            case CovarianceTerm():
                return _sum(covariance_penalty(x) for x in batch.rows(term))
            case ViewDependenceTerm():
                x, y = batch.embeddings(term)
                return 1 - distance_correlation(x, y, statistic=term.statistic)
            case DependenceTerm():
                target = batch.representation(term.representation)
                embeddings = batch.embeddings(term, standardise=term.standardise)
                return 1 - _mean(
                    distance_correlation(x, target, statistic=term.statistic) for x in embeddings
                )
            case RegressionTerm():
                head, loss = self.heads[f"to_{name}"], ROW_LOSSES[term.loss]
                target = batch.representation(term.representation)
                return _mean(loss(head(x), target.rows) for x in batch.rows(term))


class _Batch:
    """A batch that the terms share: at least float32, each distance matrix computed once."""

    def __init__(
        self,
        activations: Activations,
        representations: Mapping[str, Tensor],
        *,
        gather: bool,
    ) -> None:
        self._sources: dict[tuple[str, str], Tensor] = {
            **{("h", view): x for view, x in activations.h.items()},
            **{("z", view): x for view, x in activations.z.items()},
            **{("representation", name): x for name, x in representations.items()},
        }
        self._gather = gather
        self._samples: dict[tuple[str, str, bool], Sample] = {}

    @property
    def device(self) -> torch.device:
        return next(iter(self._sources.values())).device

    def rows(self, term: AnyTerm) -> list[Tensor]:
        """Return the embeddings (B, D) on which a term acts, one per view."""
        return [sample.rows for sample in self.embeddings(term)]

    def embeddings(self, term: AnyTerm, *, standardise: bool = False) -> list[Sample]:
        """Return the same embeddings as samples, which keep their distances."""
        return [self._sample(term.on, view, standardise) for view in term.views]

    def representation(self, name: str) -> Sample:
        return self._sample("representation", name, False)

    def _sample(self, group: str, name: str, standardise: bool) -> Sample:
        key = (group, name, standardise)
        if key not in self._samples:
            if standardise:
                rows = self._sample(group, name, False).rows
                self._samples[key] = Sample(standardised(rows), shared=self._gather)
            else:
                self._samples[key] = Sample(self._rows((group, name)), shared=self._gather)
        return self._samples[key]

    def _rows(self, key: tuple[str, str]) -> Tensor:
        if key not in self._sources:
            raise TrainingError(
                f"The objective needs {' '.join(key)}, but the batch brings "
                f"{', '.join(map(' '.join, self._sources))}."
            )
        x = self._sources[key]
        x = x if x.dtype == torch.float64 else x.float()
        return gather_rows(x) if self._gather else x


def _sum(values: Iterable[Tensor]) -> Tensor:
    return torch.stack(tuple(values)).sum()


def _mean(values: Iterable[Tensor]) -> Tensor:
    return torch.stack(tuple(values)).mean()
