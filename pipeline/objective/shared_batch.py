"""A batch that the terms of an objective share: its embeddings and targets, each prepared once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pipeline.base.errors import TrainingError
from pipeline.dependence.distance_correlation import Sample
from pipeline.dependence.gathering import gather_rows
from pipeline.features.whitening import Whitening
from pipeline.objective.losses import standardised, wide
from pipeline.objective.references import Geometry
from pipeline.objective.terms import (
    AffinityTerm,
    AnyTerm,
    DependenceTerm,
    OwnTerm,
    PairTerm,
    RegressionTerm,
)
from pipeline.objective.view_names import GLOBAL_VIEWS, View

# Rows (B, width) of a representation, or those for each view.
Targets = Tensor | Mapping[View, Tensor]


@dataclass(frozen=True)
class Activations:
    """Embeddings of a batch by view: h (B, h_width) of the backbone, z (B, z_width) projected.

    Only the views and layers that the objective needs must be present. Views besides the two global
    ones are local: `local_views` of their number.
    """

    h: Mapping[View, Tensor]
    z: Mapping[View, Tensor]


class SharedBatch:
    """A batch that the terms share: at least float32, each distance matrix computed once."""

    def __init__(
        self,
        activations: Activations,
        representations: Mapping[str, Targets],
        geometries: Mapping[tuple[str, Whitening], Geometry],
        *,
        index: Tensor | None,
        labels: Tensor | None,
        seed: int,
        gather: bool,
    ) -> None:
        self._sources: dict[tuple[str, str], Tensor] = {
            **{("h", view): x for view, x in activations.h.items()},
            **{("z", view): x for view, x in activations.z.items()},
        }
        for name, targets in representations.items():
            by_view = {"": targets} if isinstance(targets, Tensor) else targets
            self._sources |= {("representation", _of(name, v)): x for v, x in by_view.items()}
        # How many views are local.
        self.local = len({*activations.h, *activations.z} - {*GLOBAL_VIEWS})
        self._geometries = geometries
        self._index = index
        self._labels = labels
        self._seed = seed
        self._gather = gather
        self._samples: dict[tuple[str, str, bool | Whitening | None], Sample] = {}

    @property
    def device(self) -> torch.device:
        """Where the batch is."""
        first = next(iter(self._sources.values()), None)
        if first is None:
            raise TrainingError("The objective needs embeddings h or z; the batch brings nothing.")
        return first.device

    def rows(self, term: AnyTerm) -> list[Tensor]:
        """Return the embeddings (B, D) on which a term acts, one per view."""
        return [sample.rows for sample in self.embeddings(term)]

    def embeddings(self, term: AnyTerm, *, standardise: bool = False) -> list[Sample]:
        """Return the same embeddings as samples, which keep their distances."""
        return [self._sample(term.on, view, standardise) for view in term.views(self.local)]

    def over_pairs(self, term: PairTerm, compare: Callable[[Sample, Sample], Tensor]) -> Tensor:
        """Return the mean of a comparison of two views over a term's groups of pairs of them."""
        groups = [
            torch.stack([compare(*(self._sample(term.on, v, False) for v in p)) for p in pairs])
            for pairs in term.pairs(self.local)
        ]
        return torch.stack([group.mean() for group in groups]).mean()

    def own_rows(self, term: AnyTerm) -> list[Tensor]:
        """Return the embeddings of this process alone, one per view."""
        return [self._source((term.on, view)) for view in term.views(self.local)]

    def targets(
        self, term: DependenceTerm | RegressionTerm | AffinityTerm, whiten: Whitening | None = None
    ) -> list[Sample]:
        """Return a term's representation for each of its views, in the geometry of an exponent."""
        views = term.views(self.local)
        return [self._target(term.representation, view, whiten) for view in views]

    def representation(self, name: str, whiten: Whitening | None = None) -> Sample:
        """Return a representation of the original view."""
        return self._target(name, "original", whiten)

    def _target(self, name: str, view: View, whiten: Whitening | None) -> Sample:
        own = _of(name, view)
        named = own if ("representation", own) in self._sources else name
        key = ("representation", named, whiten)
        if key not in self._samples:
            rows = self._rows(("representation", named))
            geometry = None if whiten is None else self._geometries[name, whiten]
            rows = rows if geometry is None else geometry(rows)
            self._samples[key] = Sample(rows, shared=self._gather)
        return self._samples[key]

    def target(self, term: OwnTerm) -> Tensor | list[Tensor] | None:
        """Return what a term of the user's own gets of the representation that it names.

        That is rows (B, width), or a list of them, one per view, if they are stored by view.
        """
        name = term.representation
        if name is None:
            return None
        if ("representation", name) in self._sources:
            return self.representation(name).rows
        return [self._target(name, view, None).rows for view in term.views(self.local)]

    @cached_property
    def generator(self) -> torch.Generator:
        """What terms draw from, the same in all processes."""
        return torch.Generator(self.device).manual_seed(self._seed)

    @cached_property
    def index(self) -> Tensor | None:
        """Indices of the images (B,) within the training split, None if they are others."""
        if self._index is None or not self._gather:
            return self._index
        return gather_rows(self._index)

    @cached_property
    def labels(self) -> Tensor:
        """Labels (B,) of the images, below 0 where there is none."""
        if self._labels is None:
            raise TrainingError("The objective needs labels, and the batch brings none.")
        return gather_rows(self._labels) if self._gather else self._labels

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
        x = self._source(key)
        return gather_rows(x) if self._gather else x

    def _source(self, key: tuple[str, str]) -> Tensor:
        if key not in self._sources:
            raise TrainingError(
                f"The objective needs {' '.join(key)}, but the batch brings "
                f"{', '.join(map(' '.join, self._sources))}."
            )
        return wide(self._sources[key])


def _of(name: str, view: str) -> str:
    """Return what the rows of a representation for one view are called; "" are those of all."""
    return f"{name} of the {view} view" if view else name
