"""What training minimises: a named set of weighted terms.

    objective:
      invariance: {weight: 1}
      variance: {weight: 1, margin: 1}
      view_dependence: {weight: 1, statistic: dcor}
      scattering: {kind: dependence, weight: 1, on: h}
      clip: {kind: regression, weight: 1, loss: cosine}

A term's name is its kind where that is a kind, and its representation where it needs one and
names none. `on: z` is the projector's output and `on: h` the backbone's. A term of weight 0 is
left out: it costs nothing and asks for nothing.

Variance and covariance of the two views are added. VICReg adds covariances too but takes the
mean of the variances, so its 25, 25, 1 are invariance 25, variance 12.5, covariance 1 here.
Dependence terms are 1 - statistic, so that a positive weight maximises dependence. The released
MV-MR code minimises +dCor of hand-crafted representations: a weight of -1 gives that gradient.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints
from torch import Tensor, nn

from pipeline.config import Options
from pipeline.dependence import (
    MINIMUM_ROWS,
    Sample,
    Statistic,
    distance_correlation,
    full_precision,
    gather_rows,
)
from pipeline.errors import ConfigError, TrainingError, unknown_name
from pipeline.losses import (
    cosine_distance,
    covariance_penalty,
    mean_squared_error,
    standardised,
    variance_hinge,
)

View = Literal["original", "augmented"]
Layer = Literal["h", "z"]
VIEWS: tuple[View, View] = ("original", "augmented")

ROW_LOSSES = {"cosine": cosine_distance, "squared": mean_squared_error}


class Term(Options):
    """What all terms have: a weight, and the embedding on which they act."""

    weight: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    on: Layer = "z"

    @property
    def views(self) -> tuple[View, ...]:
        """The views whose embeddings the term needs."""
        return VIEWS

    @property
    def least_rows(self) -> int:
        """How many images a batch needs at least, for the term to be defined."""
        return 1


class InvarianceTerm(Term):
    """Mean squared error between the embeddings of the two views."""

    kind: Literal["invariance"] = "invariance"


class VarianceTerm(Term):
    """Hinge that keeps the standard deviation of each dimension above `margin`."""

    kind: Literal["variance"] = "variance"
    margin: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    @property
    def least_rows(self) -> int:
        """A deviation needs two."""
        return 2


class CovarianceTerm(Term):
    """Squared covariances between different dimensions."""

    kind: Literal["covariance"] = "covariance"

    @property
    def least_rows(self) -> int:
        """A covariance needs two."""
        return 2


class ViewDependenceTerm(Term):
    """1 - distance correlation of the embeddings of the two views."""

    kind: Literal["view_dependence"] = "view_dependence"
    statistic: Statistic = "dcor"

    @property
    def least_rows(self) -> int:
        """As many as the statistic needs."""
        return MINIMUM_ROWS[self.statistic]


class _RepresentationTerm(Term):
    """A term that compares embeddings with a representation of the original view."""

    representation: str
    view: Literal["original", "augmented", "both"]

    @property
    def views(self) -> tuple[View, ...]:
        """The views whose embeddings the term needs; over both it is a mean."""
        return VIEWS if self.view == "both" else (self.view,)


class DependenceTerm(_RepresentationTerm):
    """1 - distance correlation of the embedding and a representation.

    With `standardise` distances are those of the embedding with every dimension divided by its
    standard deviation over the batch, so that a few large ones do not decide alone.
    """

    kind: Literal["dependence"] = "dependence"
    view: Literal["original", "augmented", "both"] = "augmented"
    statistic: Statistic = "dcor"
    standardise: bool = False

    @property
    def least_rows(self) -> int:
        """As many as the statistic needs."""
        return MINIMUM_ROWS[self.statistic]


class RegressionTerm(_RepresentationTerm):
    """Distance of a representation from what a learned linear map makes of the embedding.

    `cosine` is 1 - cosine, `squared` the mean squared error; the map belongs to training, not
    to the encoder.
    """

    kind: Literal["regression"] = "regression"
    on: Layer = "h"
    view: Literal["original", "augmented", "both"] = "both"
    loss: Literal["cosine", "squared"] = "cosine"


AnyTerm = (
    InvarianceTerm
    | VarianceTerm
    | CovarianceTerm
    | ViewDependenceTerm
    | DependenceTerm
    | RegressionTerm
)
TermOptions = Annotated[AnyTerm, Field(discriminator="kind")]


def _complete(terms: Any) -> Any:
    """Fill in `kind` and `representation` from the names of the terms, where they are not given.

    A name that is no kind becomes an unknown kind, which is reported with the valid ones.
    """
    if not isinstance(terms, Mapping):
        return terms
    return {name: _completed(name, term) for name, term in terms.items()}


def _completed(name: Any, term: Any) -> Any:
    if not isinstance(term, Mapping):
        return term
    term = {"kind": name, **term}
    if term["kind"] in ("dependence", "regression"):
        term = {"representation": name, **term}
    return term


def _not_empty(terms: dict[str, AnyTerm]) -> dict[str, AnyTerm]:
    if not active(terms):
        raise ValueError("at least one term needs a weight that is not 0")
    return terms


# Names become keys of logs and of state dictionaries, so they hold no dots or spaces.
TermName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]

# The type of an experiment's section `objective`.
ObjectiveOptions = Annotated[
    dict[TermName, TermOptions], BeforeValidator(_complete), AfterValidator(_not_empty)
]


def active(terms: Mapping[str, AnyTerm]) -> dict[str, AnyTerm]:
    """Return the terms whose weight is not 0, in order."""
    return {name: term for name, term in terms.items() if term.weight != 0}


def representations_of(terms: Mapping[str, AnyTerm]) -> tuple[str, ...]:
    """Return the names of the representations that active terms need, each once, in order."""
    needed = active(terms).values()
    names = [term.representation for term in needed if isinstance(term, _RepresentationTerm)]
    return tuple(dict.fromkeys(names))


def least_rows(terms: Mapping[str, AnyTerm]) -> int:
    """Return how many images a batch needs at least, for every active term to be defined."""
    return max(term.least_rows for term in active(terms).values())


@dataclass(frozen=True)
class Activations:
    """Embeddings of a batch by view: h (B, h_width) of the backbone, z (B, z_width) projected.

    Only views and layers that the objective needs have to be there.
    """

    h: Mapping[View, Tensor]
    z: Mapping[View, Tensor]


@dataclass(frozen=True)
class ObjectiveValue:
    """The weighted sum, and each term before its weight, by name in the order of the file."""

    total: Tensor
    terms: dict[str, Tensor]


class Objective(nn.Module):
    """Weighted terms over a batch, with the linear heads of the regression terms.

    `views` must be encoded, the projector is needed if `needs_projector`, and the batch must
    bring `representations`. With `gather`, every term in training mode is that of the batch of
    all ranks, of which each must then have equally many rows. Heads are initialised from the
    global generator.
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

        Everything is computed in float32 at least, inside autocast too. Values that are not
        finite are returned as they are. Raises TrainingError if something is missing from the
        batch, or if it has too few rows for a statistic.
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
    """A batch as the terms share it: float32, of all ranks, every distance matrix made once."""

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
        """Return the embeddings (B, D) on which a term acts, one a view."""
        return [sample.rows for sample in self.embeddings(term)]

    def embeddings(self, term: AnyTerm, *, standardise: bool = False) -> list[Sample]:
        """Return the same as samples, which hold their distances."""
        return [self._sample(term.on, view, standardise) for view in term.views]

    def representation(self, name: str) -> Sample:
        return self._sample("representation", name, False)

    def _sample(self, group: str, name: str, standardise: bool) -> Sample:
        key = (group, name, standardise)
        if key not in self._samples:
            if standardise:
                rows = self._sample(group, name, False).rows
                self._samples[key] = Sample(standardised(rows))
            else:
                self._samples[key] = Sample(self._rows((group, name)))
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
