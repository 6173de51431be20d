"""The terms that an experiment may list under `objective`, and their options.

    objective:
      invariance: {weight: 1}
      variance: {weight: 1, margin: 1}
      view_dependence: {weight: 1, statistic: dcor}
      scattering: {kind: dependence, weight: 1, on: h}
      clip: {kind: regression, weight: 1, loss: cosine}
      hog: {kind: regression, weight: {from: 50, to: 5, schedule: cosine}, whiten: 1}
      labels: {weight: 0.5}

A term's name is the default for its `kind`, and for its `representation` if it needs one.
`on: z` is the projector's output and `on: h` the backbone's. A term of weight 0 is left out: it
costs nothing and needs no input. Validation uses the last value of a weight that changes, so that
objectives of different epochs can be compared.

`whiten` sets the geometry of a stored target: left out, its numbers are used as they are stored; 0
centres each component, 1 standardises it, and values between divide it by its deviation to that
power. `phi_s`, of regression alone, centres and rotates principal components so that all dimensions
vary alike, and divides them by one number. All need the mean and deviation that the store keeps of
each component.

Variance and covariance of the two views are added. VICReg adds covariances too but takes the
mean of the variances, so its 25, 25, 1 are invariance 25, variance 12.5, covariance 1 here. Where
there are local views as well, they are twice the mean over all views, so that weights keep their
meaning.

`view` says on which views a term acts; `view_names.py` says what that means for terms that compare
pairs of views.
Dependence terms are 1 - statistic, so a positive weight maximises dependence. The released
MV-MR code minimises +dCor of hand-crafted representations; a weight of -1 gives that gradient.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    WrapValidator,
    model_validator,
)

from pipeline.base.options import Options, added
from pipeline.base.own_code import OwnCode
from pipeline.dependence.distance_correlation import MINIMUM_ROWS, Statistic
from pipeline.features.whitening import PHI_S, Whitening
from pipeline.objective.view_names import (
    GLOBAL_VIEWS,
    GlobalView,
    Pair,
    Several,
    View,
    ViewChoice,
    chosen_views,
    compared_pairs,
)
from pipeline.objective.weights import Weight, never_counts

Layer = Literal["h", "z"]
_EXPONENT: TypeAdapter[float] = TypeAdapter(
    Annotated[float, Field(ge=0, le=1)], config=ConfigDict(strict=True)
)
Temperature = Annotated[float, Field(gt=0, allow_inf_nan=False)]
# A union would report one mistake once for each of its members.
GeometryChoice = Annotated[
    Whitening,
    WrapValidator(lambda value, _: value if value == PHI_S else _EXPONENT.validate_python(value)),
]
# Functions of embeddings, and perhaps a target, that return a loss; see `OwnTerm`.
OWN_TERMS: OwnCode[Callable[..., Any]] = OwnCode("loss term", "mvmr.register_term")


class Term(Options):
    """The options of every term: a weight, and the embedding on which it acts."""

    weight: Weight = 1.0
    on: Layer = "z"

    @abstractmethod
    def views(self, local: int) -> tuple[View, ...]:
        """Return the views whose embeddings the term needs, where there are `local` local ones."""

    @property
    def least_rows(self) -> int:
        """The smallest number of images in a batch for which the term is defined."""
        return 1


class PairTerm(Term):
    """A term that compares the embeddings of two views, the mean over pairs of them."""

    view: Several = added("all")

    def pairs(self, local: int) -> tuple[tuple[Pair, ...], ...]:
        """Return the pairs that are compared, in groups of which each counts alike."""
        return compared_pairs(self.view, local)

    def views(self, local: int) -> tuple[View, ...]:
        """Return the views of these pairs."""
        pairs = (pair for group in self.pairs(local) for pair in group)
        return tuple(dict.fromkeys(view for pair in pairs for view in pair))


class _ShapeTerm(Term):
    """A term that looks at the distribution of one view's embeddings, of each view alike."""

    view: Several = added("all")

    def views(self, local: int) -> tuple[View, ...]:
        """Return the views whose embeddings the term shapes."""
        return chosen_views(self.view, local)


class InvarianceTerm(PairTerm):
    """Mean squared error between the embeddings of two views."""

    kind: Literal["invariance"] = "invariance"


class VarianceTerm(_ShapeTerm):
    """Hinge that keeps the standard deviation of each dimension above `margin`."""

    kind: Literal["variance"] = "variance"
    margin: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    @property
    def least_rows(self) -> int:
        """A standard deviation needs two."""
        return 2


class CovarianceTerm(_ShapeTerm):
    """Squared covariances between different dimensions."""

    kind: Literal["covariance"] = "covariance"

    @property
    def least_rows(self) -> int:
        """A covariance needs two."""
        return 2


class ViewDependenceTerm(PairTerm):
    """1 - distance correlation of the embeddings of two views."""

    kind: Literal["view_dependence"] = "view_dependence"
    statistic: Statistic = "dcor"

    @property
    def least_rows(self) -> int:
        """As many as the statistic needs."""
        return MINIMUM_ROWS[self.statistic]


class BarlowTerm(PairTerm):
    """Cross-correlations of two views' dimensions, drawn to the identity (Barlow Twins).

    Those between different dimensions count `off_diagonal` times.
    """

    kind: Literal["barlow"] = "barlow"
    off_diagonal: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0051

    @property
    def least_rows(self) -> int:
        """A correlation needs two."""
        return 2


class SigregTerm(_ShapeTerm):
    """Distance of the embeddings' distribution from the standard normal one (LeJEPA).

    It is measured along `directions` random directions, drawn anew in every step, and averaged over
    the views.
    """

    kind: Literal["sigreg"] = "sigreg"
    directions: Annotated[int, Field(ge=1)] = 1024

    @property
    def least_rows(self) -> int:
        """A distribution needs two."""
        return 2


class _RepresentationTerm(Term):
    """A term that compares embeddings with a representation of the original view."""

    representation: str
    view: ViewChoice
    whiten: GeometryChoice | None = added(None)

    @model_validator(mode="after")
    def _rotates_for_a_reason(self) -> Self:
        if self.whiten == PHI_S and getattr(self, "loss", "cosine") == "cosine":
            raise ValueError(
                f"whiten: {PHI_S} is whiten: 0 but for a rotation and a scale, on which neither a "
                "cosine nor a dependence depends; write whiten: 0, or another loss"
            )
        return self

    def views(self, local: int) -> tuple[View, ...]:
        """Return the views whose embeddings the term needs; of several, it is the mean."""
        return chosen_views(self.view, local)


class DependenceTerm(_RepresentationTerm):
    """1 - distance correlation of the embedding and a representation.

    With `standardise`, every dimension of the embedding is first divided by its standard
    deviation over the batch, so that a few large dimensions do not dominate the distances.
    """

    kind: Literal["dependence"] = "dependence"
    view: ViewChoice = "augmented"
    statistic: Statistic = "dcor"
    standardise: bool = False

    @property
    def least_rows(self) -> int:
        """As many as the statistic needs."""
        return MINIMUM_ROWS[self.statistic]


class RegressionTerm(_RepresentationTerm):
    """Distance between a representation and a learned map of the embedding.

    `cosine` is 1 - cosine, `squared` the mean squared error, `cosine_smooth_l1` half of 1 - cosine
    plus half of the smooth L1 distance, meant for `whiten: 1` (UNIC). The map has one layer or two
    and belongs to training, not to the encoder.

    With `relative`, the loss is divided by that of the best constant: one number per target, after
    which several count alike whatever their scale. `whiten: phi_s` gives them one scale too, and
    their dimensions alike weight in a loss that looks at dimensions (PHI-S). `drop`, in training,
    leaves out an image with this probability where another term with `drop` has the larger loss for
    it (UNIC).
    """

    kind: Literal["regression"] = "regression"
    on: Layer = "h"
    view: ViewChoice = "both"
    loss: Literal["cosine", "squared", "cosine_smooth_l1"] = "cosine"
    layers: Literal[1, 2] = added(1)
    relative: bool = added(False)
    drop: Annotated[float, Field(ge=0, le=1)] = added(0.0)


class AffinityTerm(_RepresentationTerm):
    """Divergence between softmax similarities of target and embedding to a bank of stored targets.

    The bank holds the targets of `bank` training images, fixed and in memory. A learned map of
    the embedding takes the place of the image's own target. All are centred by the bank's mean, or
    as `whiten` says, and compared by cosine. Both temperatures divide cosines. With
    `leave_out_own`, an image in the bank is not compared with itself.
    """

    kind: Literal["affinity"] = "affinity"
    on: Layer = "h"
    view: ViewChoice = "both"
    bank: Annotated[int, Field(ge=2)] = 4096
    temperature: Temperature = 0.07
    target_temperature: Temperature = 0.07
    leave_out_own: bool = True
    layers: Literal[1, 2] = 1
    relative: bool = False


class LabelsTerm(Term):
    """Cross-entropy of the labels and a linear classifier of the embedding, the mean over views.

    The classifier belongs to training, not to the encoder. Images without a label do not count.
    """

    kind: Literal["labels"] = "labels"
    on: Layer = "h"
    view: ViewChoice = "both"

    def views(self, local: int) -> tuple[View, ...]:
        """Return the views whose embeddings are classified."""
        return chosen_views(self.view, local)


class OwnTerm(Term):
    """A loss of the user's own: `kind: python:package.module:function`, with `trust: true`.

    The function takes the embeddings (B, D) of each of `needs`, which are global views, in this
    order, and the rows (B, width) of the `representation` if one is named. It returns a scalar, or
    one number per image (B,), whose mean counts.
    """

    kind: Literal["own"] = "own"
    on: Layer = "h"
    code: str
    trust: bool = False
    needs: Annotated[tuple[GlobalView, ...], Field(strict=False, min_length=1, max_length=2)] = (
        GLOBAL_VIEWS
    )
    representation: str | None = None

    def views(self, local: int) -> tuple[View, ...]:
        """Return the views whose embeddings the function takes; none of them is local."""
        return self.needs


# Kinds of terms that compare embeddings with a representation.
WITH_REPRESENTATION = tuple(
    str(term.model_fields["kind"].default)
    for term in (DependenceTerm, RegressionTerm, AffinityTerm)
)

AnyTerm = (
    InvarianceTerm
    | VarianceTerm
    | CovarianceTerm
    | ViewDependenceTerm
    | BarlowTerm
    | SigregTerm
    | DependenceTerm
    | RegressionTerm
    | AffinityTerm
    | LabelsTerm
    | OwnTerm
)
TermOptions = Annotated[AnyTerm, Field(discriminator="kind")]
KINDS = tuple(str(term.model_fields["kind"].default) for term in get_args(AnyTerm))


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
    term = OWN_TERMS.named({"kind": name, **term})
    if term["kind"] in WITH_REPRESENTATION:
        term = {"representation": name, **term}
    return term


def _not_empty(terms: dict[str, AnyTerm]) -> dict[str, AnyTerm]:
    if not active(terms):
        raise ValueError("at least one term needs a weight that is not 0")
    dropping = [
        name
        for name, term in active(terms).items()
        if isinstance(term, RegressionTerm) and term.drop > 0
    ]
    if len(dropping) == 1:
        raise ValueError(
            f"drop leaves out the better matched of several targets, but only {dropping[0]} has "
            "it: set it in several regression terms, or in none."
        )
    return terms


# Names become keys of logs and of state dictionaries, so they hold no dots or spaces.
TermName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]

# The type of an experiment's section `objective`.
ObjectiveOptions = Annotated[
    dict[TermName, TermOptions], BeforeValidator(_complete), AfterValidator(_not_empty)
]


def active(terms: Mapping[str, AnyTerm]) -> dict[str, AnyTerm]:
    """Return the terms whose weight is not 0, in order."""
    return {name: term for name, term in terms.items() if not never_counts(term.weight)}


def views_of(terms: Mapping[str, AnyTerm], local: int = 0) -> frozenset[View]:
    """Return the views whose embeddings active terms need, where there are `local` local ones."""
    return frozenset(view for term in active(terms).values() for view in term.views(local))


def local_alone(terms: Mapping[str, AnyTerm]) -> list[str]:
    """Return the names of active terms that ask for local views by `view: local`."""
    return [name for name, t in active(terms).items() if getattr(t, "view", None) == "local"]


def compares_views(term: AnyTerm) -> bool:
    """Return whether a term compares the embeddings of two views of an image."""
    two = isinstance(term, OwnTerm) and len(set(term.needs)) == len(GLOBAL_VIEWS)
    return two or isinstance(term, PairTerm)


def representations_of(terms: Mapping[str, AnyTerm]) -> tuple[str, ...]:
    """Return the names of the representations that active terms need, each once, in order."""
    named = (getattr(term, "representation", None) for term in active(terms).values())
    return tuple(dict.fromkeys(name for name in named if name is not None))


def with_representation(
    terms: Mapping[str, AnyTerm],
) -> Iterator[tuple[str, DependenceTerm | RegressionTerm | AffinityTerm]]:
    """Yield active terms that compare embeddings with a representation, and their names."""
    for name, term in active(terms).items():
        if isinstance(term, DependenceTerm | RegressionTerm | AffinityTerm):
            yield name, term


def reads_ahead(term: AnyTerm) -> str | None:
    """Return the option for which a term must know stored targets before training, if any."""
    if isinstance(term, AffinityTerm):
        return "affinity"
    if isinstance(term, _RepresentationTerm) and term.whiten is not None:
        return "whiten"
    return "relative" if isinstance(term, RegressionTerm) and term.relative else None


def reads_labels(terms: Mapping[str, AnyTerm]) -> bool:
    """Return whether an active term needs labels."""
    return any(isinstance(term, LabelsTerm) for term in active(terms).values())


def least_rows(terms: Mapping[str, AnyTerm]) -> int:
    """Return the smallest number of images in a batch for which every active term is defined."""
    return max(term.least_rows for term in active(terms).values())
