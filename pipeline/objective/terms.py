"""The terms that an experiment may list under `objective`, and their options.

    objective:
      invariance: {weight: 1}
      variance: {weight: 1, margin: 1}
      view_dependence: {weight: 1, statistic: dcor}
      scattering: {kind: dependence, weight: 1, on: h}
      clip: {kind: regression, weight: 1, loss: cosine}

A term's name is the default for its `kind`, and for its `representation` if it needs one.
`on: z` is the projector's output and `on: h` the backbone's. A term of weight 0 is left out: it
costs nothing and needs no input.

Variance and covariance of the two views are added. VICReg adds covariances too but takes the
mean of the variances, so its 25, 25, 1 are invariance 25, variance 12.5, covariance 1 here.
Dependence terms are 1 - statistic, so a positive weight maximises dependence. The released
MV-MR code minimises +dCor of hand-crafted representations; a weight of -1 gives that gradient.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from pipeline.base.options import Options
from pipeline.dependence.distance_correlation import MINIMUM_ROWS, Statistic

View = Literal["original", "augmented"]
Layer = Literal["h", "z"]
VIEWS: tuple[View, View] = ("original", "augmented")


class Term(Options):
    """The options of every term: a weight, and the embedding on which it acts."""

    weight: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    on: Layer = "z"

    @property
    def views(self) -> tuple[View, ...]:
        """The views whose embeddings the term needs."""
        return VIEWS

    @property
    def least_rows(self) -> int:
        """The smallest number of images in a batch for which the term is defined."""
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
        """A standard deviation needs two."""
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
        """The views whose embeddings the term needs; for both, it is their mean."""
        return VIEWS if self.view == "both" else (self.view,)


class DependenceTerm(_RepresentationTerm):
    """1 - distance correlation of the embedding and a representation.

    With `standardise`, every dimension of the embedding is first divided by its standard
    deviation over the batch, so that a few large dimensions do not dominate the distances.
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
    """Distance between a representation and a learned linear map of the embedding.

    `cosine` is 1 - cosine, `squared` the mean squared error. The map belongs to training, not
    to the encoder.
    """

    kind: Literal["regression"] = "regression"
    on: Layer = "h"
    view: Literal["original", "augmented", "both"] = "both"
    loss: Literal["cosine", "squared"] = "cosine"


# Kinds of terms that compare embeddings with a representation.
WITH_REPRESENTATION = tuple(
    str(term.model_fields["kind"].default) for term in (DependenceTerm, RegressionTerm)
)

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
    """Fill in missing `kind` and `representation` from the names of the terms.

    A name that is not a kind becomes an unknown kind, which is reported with the valid ones.
    """
    if not isinstance(terms, Mapping):
        return terms
    return {name: _completed(name, term) for name, term in terms.items()}


def _completed(name: Any, term: Any) -> Any:
    if not isinstance(term, Mapping):
        return term
    term = {"kind": name, **term}
    if term["kind"] in WITH_REPRESENTATION:
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
    """Return the smallest number of images in a batch for which every active term is defined."""
    return max(term.least_rows for term in active(terms).values())
