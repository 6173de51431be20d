"""The objective of a batch: the weighted sum of its terms. `terms.py` holds their options."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from pipeline.base.arguments import require_width
from pipeline.base.errors import ArgumentError, ConfigError, TrainingError, unknown_name
from pipeline.base.precision import full_precision
from pipeline.dependence.distance_correlation import distance_correlation
from pipeline.features.whitening import PHI_S, Whitening
from pipeline.objective.affinities import affinity_divergence
from pipeline.objective.heads import build_head
from pipeline.objective.losses import (
    covariance_penalty,
    label_cross_entropy,
    label_entropy,
    mean_squared_error,
    variance_hinge,
)
from pipeline.objective.own_loss import found_loss, own_loss
from pipeline.objective.references import (
    Bank,
    Geometry,
    Reference,
    best_constant_regression,
)
from pipeline.objective.regularisers import barlow, gaussian_distance, random_directions
from pipeline.objective.row_losses import ROW_LOSSES, kept_rows
from pipeline.objective.shared_batch import Activations, SharedBatch, Targets
from pipeline.objective.terms import (
    AffinityTerm,
    AnyTerm,
    BarlowTerm,
    CovarianceTerm,
    DependenceTerm,
    InvarianceTerm,
    LabelsTerm,
    OwnTerm,
    RegressionTerm,
    SigregTerm,
    VarianceTerm,
    ViewDependenceTerm,
    active,
    local_alone,
    reads_ahead,
    representations_of,
    with_representation,
)
from pipeline.objective.trivial import trivial_value
from pipeline.objective.weights import ChangingWeight, weight_at


@dataclass(frozen=True)
class Moment:
    """Where in training a step is: `progress` from 0 to 1, and a seed for what the step draws.

    The seed must be the same in all processes.
    """

    progress: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ArgumentError if the progress is not from 0 to 1."""
        if not 0 <= self.progress <= 1:
            raise ArgumentError(f"Progress is from 0 to 1; found {self.progress}.")


@dataclass(frozen=True)
class ObjectiveValue:
    """The weighted sum, and each unweighted term by name, in the order of the experiment file.

    `weights` are the current ones of terms whose weight changes. `trivial`, outside training, is
    what each term would be without any learning, see `trivial.py`; terms that have no such value
    are missing.
    """

    total: Tensor
    terms: dict[str, Tensor]
    weights: dict[str, float] = field(default_factory=dict)
    trivial: dict[str, Tensor] = field(default_factory=dict)


class Objective(nn.Module):
    """Weighted terms over a batch, with the learned heads of those that predict a target.

    The caller encodes the views that the terms need, runs the projector if `needs_projector`, and
    provides `representations`. With `gather`, terms in training mode are those of the batch of all
    ranks, which must then have equally many rows each. Heads are initialised from the global
    generator.
    """

    def __init__(
        self,
        terms: Mapping[str, AnyTerm],
        *,
        h_width: int,
        z_width: int,
        representation_widths: Mapping[str, int],
        references: Mapping[str, Reference] | None = None,
        class_counts: Tensor | None = None,
        gather: bool = False,
    ) -> None:
        """Raise ConfigError if no term has a weight, or something that a term needs is missing.

        `references` are those of stored targets. Only terms with `whiten` or `relative`, and
        affinity, need one; for others it tells what the best constant scores. `class_counts` (K,)
        are the numbers of training images of each class, which labels terms need.
        """
        super().__init__()
        self.terms = active(terms)
        if not self.terms:
            raise ConfigError("The objective needs at least one term whose weight is not 0.")
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
                f"to_{name}": build_head(
                    embedding_widths[term.on],
                    representation_widths[term.representation],
                    layers=term.layers,
                )
                for name, term in with_representation(self.terms)
                if not isinstance(term, DependenceTerm)
            }
        )
        self._own = {
            name: found_loss(name, term)
            for name, term in self.terms.items()
            if isinstance(term, OwnTerm)
        }
        self._embedding_widths = embedding_widths
        self._geometries: dict[tuple[str, Whitening], Geometry] = {}
        self._banks: dict[str, Bank] = {}
        self._constants: dict[str, float] = {}
        self._scales: dict[str, float] = {}
        for name, term in with_representation(self.terms):
            self._look_ahead(name, term, references or {})
        classifying = {n: t for n, t in self.terms.items() if isinstance(t, LabelsTerm)}
        for name, classifier in classifying.items():
            self._classify(name, classifier, class_counts)

    def _classify(self, name: str, term: LabelsTerm, class_counts: Tensor | None) -> None:
        """Build a term's classifier, and prepare what naming shares of classes scores."""
        if class_counts is None or not class_counts.sum():
            raise ConfigError(
                f"The term {name!r} needs training images with one class each, and these have "
                "none: leave it out, or name a source of labels."
            )
        width = self._embedding_widths[term.on]
        self.heads[f"to_{name}"] = build_head(width, len(class_counts), layers=1)
        self._constants[name] = float(label_entropy(class_counts))

    def _look_ahead(
        self,
        name: str,
        term: DependenceTerm | RegressionTerm | AffinityTerm,
        references: Mapping[str, Reference],
    ) -> None:
        """Prepare a term's geometry, its bank, and what the best constant scores."""
        reference = references.get(term.representation)
        if reference is None:
            if reads_ahead(term):
                raise ConfigError(
                    f"The term {name!r} with {reads_ahead(term)} needs stored targets of training "
                    f"images, but {term.representation!r} is not stored: add it to `features`."
                )
            return
        geometry = self._geometry(term, reference)
        if isinstance(term, DependenceTerm):
            return
        if isinstance(term, AffinityTerm):
            self._banks[name] = Bank(term, reference, geometry)
            constant = float(self._banks[name].best_constant())
        else:
            constant = float(best_constant_regression(term, reference, geometry))
        if term.relative and constant > 0:
            self._scales[name], constant = constant, 1.0
        self._constants[name] = constant

    def _geometry(
        self, term: DependenceTerm | RegressionTerm | AffinityTerm, reference: Reference
    ) -> Geometry | None:
        if term.whiten is None:
            return None
        if reference.mean is None or reference.deviation is None:
            name = term.representation
            raise ConfigError(
                f"`whiten` needs the mean and deviation of each component of {name!r}, which this "
                "feature was stored without: compute it again with "
                f"`mvmr extract-features --only {name} --force`, or leave out `whiten`."
            )
        if term.whiten == PHI_S and not reference.uncorrelated:
            raise ConfigError(
                f"`whiten: {PHI_S}` rotates principal components, and {term.representation!r} is "
                f"stored otherwise: set features.{term.representation}.reduce to a power of two, "
                "such as {pca: 256}."
            )
        geometry = Geometry(reference.mean, reference.deviation, term.whiten)
        self._geometries[term.representation, term.whiten] = geometry
        return geometry

    def forward(
        self,
        activations: Activations,
        representations: Mapping[str, Targets],
        *,
        index: Tensor | None = None,
        labels: Tensor | None = None,
        moment: Moment = Moment(),
    ) -> ObjectiveValue:
        """Return the objective of a batch; representations are (B, width) of any float type.

        One may have rows for each view, which are then those that the view's embedding is compared
        with.

        `index` (B,) are the images' indices within the training split, by which affinity terms
        find their own rows; None means that none of them is a training image. `labels` (B,) are
        below 0 where there is none; only labels terms need them. Outside training, weights that
        change have their last value.

        Outside training, terms may also get no local views, and then act on the global ones in
        place of these.

        Everything is computed in at least float32, even inside autocast. Values that are not
        finite are returned as they are. Raises TrainingError if something is missing from the
        batch, or if the batch has too few rows for a term.
        """
        gather = self._gather and self.training
        batch = SharedBatch(
            activations,
            representations,
            self._geometries,
            index=index,
            labels=labels,
            seed=moment.seed,
            gather=gather,
        )
        if self.training and not batch.local:
            self._require_no_local_views()
        progress = moment.progress if self.training else 1.0
        weights = {name: weight_at(term.weight, progress) for name, term in self.terms.items()}
        with full_precision(batch.device):
            rows = {
                name: self._row_losses(name, term, batch)
                for name, term in self.terms.items()
                if isinstance(term, RegressionTerm)
            }
            values = {
                name: rows[name].mean() if name in rows else self._value(name, term, batch)
                for name, term in self.terms.items()
            }
            counted = values | (self._dropped(rows, batch) if self.training else {})
            trivial = {} if self.training else self._trivial(batch)
        total = _sum(weight * counted[name] for name, weight in weights.items())
        changing = {n: w for n, w in weights.items() if self._changes(n)} if self.training else {}
        return ObjectiveValue(total, values, changing, trivial)

    def _require_no_local_views(self) -> None:
        if names := local_alone(self.terms):
            raise TrainingError(
                f"The term {names[0]!r} acts on local views (view: local), and the batch brings "
                "none: give their embeddings after those of the original and the augmented view, "
                "or choose another view."
            )

    def _changes(self, name: str) -> bool:
        return isinstance(self.terms[name].weight, ChangingWeight)

    def _value(self, name: str, term: AnyTerm, batch: SharedBatch) -> Tensor:
        match term:
            case InvarianceTerm():
                return batch.over_pairs(term, lambda x, y: mean_squared_error(x.rows, y.rows))
            case VarianceTerm():
                return 2 * _mean(variance_hinge(x, margin=term.margin) for x in batch.rows(term))
            case CovarianceTerm():
                return 2 * _mean(covariance_penalty(x) for x in batch.rows(term))
            case ViewDependenceTerm():
                statistic = partial(distance_correlation, statistic=term.statistic)
                return 1 - batch.over_pairs(term, statistic)
            case BarlowTerm():
                return batch.over_pairs(
                    term, lambda x, y: barlow(x.rows, y.rows, off_diagonal=term.off_diagonal)
                )
            case SigregTerm():
                views, gather = batch.own_rows(term), self._gather and self.training
                directions = random_directions(
                    term.directions, views[0].shape[1], batch.generator, like=views[0]
                )
                return _mean(gaussian_distance(x, directions, over_processes=gather) for x in views)
            case DependenceTerm():
                pairs = zip(
                    batch.embeddings(term, standardise=term.standardise),
                    batch.targets(term, term.whiten),
                    strict=True,
                )
                return 1 - _mean(
                    distance_correlation(x, target, statistic=term.statistic) for x, target in pairs
                )
            case AffinityTerm():
                return self._affinity(name, term, batch)
            case RegressionTerm():
                return self._row_losses(name, term, batch).mean()
            case LabelsTerm():
                return _mean(
                    label_cross_entropy(logits, batch.labels)
                    for logits in self._mapped(name, term, batch)
                )
            case OwnTerm():
                return own_loss(name, term, self._own[name], batch.rows(term), batch.target(term))

    def _affinity(self, name: str, term: AffinityTerm, batch: SharedBatch) -> Tensor:
        bank, views = self._banks[name], self._mapped(name, term, batch)
        # Views that share a target are compared with its affinities together.
        targets = batch.targets(term)
        groups = [
            (target, [x for x, own in zip(views, targets, strict=True) if own is target])
            for target in dict.fromkeys(targets)
        ]
        divergence = _sum(
            len(predicted)
            / len(views)
            * affinity_divergence(
                predicted,
                centred := bank.centred(target.rows),
                bank.rows(like=centred),
                temperature=term.temperature,
                target_temperature=term.target_temperature,
                own=bank.own(batch.index),
            )
            for target, predicted in groups
        )
        return divergence / self._scales.get(name, 1.0)

    def _mapped(
        self, name: str, term: RegressionTerm | AffinityTerm | LabelsTerm, batch: SharedBatch
    ) -> list[Tensor]:
        """Return the learned map of each view's embeddings, (B, width of the target)."""
        head, views = self.heads[f"to_{name}"], batch.rows(term)
        for x in views:
            require_width(x, self._embedding_widths[term.on])
        dtype = next(head.parameters()).dtype
        return [head(x.to(dtype)) for x in views]

    def _row_losses(self, name: str, term: RegressionTerm, batch: SharedBatch) -> Tensor:
        """Return the loss of each row (B,), the mean over the views."""
        loss = ROW_LOSSES[term.loss]
        pairs = zip(self._mapped(name, term, batch), batch.targets(term, term.whiten), strict=True)
        views = torch.stack([loss(x, target.rows) for x, target in pairs])
        return views.mean(0) / self._scales.get(name, 1.0)

    def _dropped(self, rows: Mapping[str, Tensor], batch: SharedBatch) -> dict[str, Tensor]:
        """Return the terms with `drop`, without the rows that are left out."""
        chances = {
            name: term.drop
            for name, term in self.terms.items()
            if isinstance(term, RegressionTerm) and term.drop > 0
        }
        if not chances:
            return {}
        losses = torch.stack([rows[name].detach() for name in chances])
        draws = torch.rand(losses.shape, generator=batch.generator, device=losses.device)
        kept = kept_rows(losses, draws, list(chances.values()))
        return {
            name: torch.where(keep, rows[name], 0.0).mean()
            for name, keep in zip(chances, kept, strict=True)
        }

    @torch.no_grad()
    def _trivial(self, batch: SharedBatch) -> dict[str, Tensor]:
        found = {}
        for name, term in self.terms.items():
            value = trivial_value(term, batch)
            if value is None and name in self._constants:
                value = torch.full((), self._constants[name], device=batch.device)
            if value is not None:
                found[name] = value
        return found


def _sum(values: Iterable[Tensor]) -> Tensor:
    return torch.stack(tuple(values)).sum()


def _mean(values: Iterable[Tensor]) -> Tensor:
    return torch.stack(tuple(values)).mean()
