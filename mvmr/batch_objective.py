"""The dependence, and the objective, for batches of a training script of the user's own."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np
from torch import Tensor, nn

from mvmr.arrays import ArrayLike, Count, as_real_rows
from mvmr.public_calls import public
from pipeline.base.arguments import require_finite, require_matrix
from pipeline.base.errors import (
    ArgumentError,
    ConfigError,
    DataError,
    TrainingError,
    unknown_name,
)
from pipeline.base.options import checked_by
from pipeline.base.text import counted
from pipeline.dependence import distance_correlation as dependence
from pipeline.objective.objective import Moment, ObjectiveValue
from pipeline.objective.objective import Objective as TermsOfBatch
from pipeline.objective.references import Reference
from pipeline.objective.shared_batch import Activations
from pipeline.objective.terms import (
    AnyTerm,
    DependenceTerm,
    ObjectiveOptions,
    compares_views,
    representations_of,
    with_representation,
)
from pipeline.objective.view_names import GLOBAL_VIEWS, View, all_views

Views = Tensor | Sequence[Tensor] | Mapping[View, Tensor]


@overload
def distance_correlation(
    x: Tensor, y: Tensor, *, statistic: dependence.Statistic = "dcor"
) -> Tensor: ...
@overload
def distance_correlation(
    x: "np.ndarray[Any, Any]",
    y: "np.ndarray[Any, Any]",
    *,
    statistic: dependence.Statistic = "dcor",
) -> float: ...
@public
def distance_correlation(
    x: ArrayLike, y: ArrayLike, *, statistic: dependence.Statistic = "dcor"
) -> Tensor | float:
    """Return the distance correlation of two samples, rows (B, D) and (B, E).

    It is 0 for a constant side, and 1 if one side determines the distances of the other up to a
    factor. `statistic` is dcor, dcor_squared, or dcor_squared_unbiased, which is about 0 for
    independent samples of any width. It does not depend on the scale of either side. Tensors give a
    scalar tensor with gradients, also second ones and under `torch.func.grad` and `vmap`; arrays
    give a float. Raises ArgumentError for NaN and infinity; they cannot be seen under `vmap`, where
    they give NaN.

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(256, 8))
    >>> round(mvmr.distance_correlation(x, 3 * x + 1), 6)
    1.0
    """
    tensors = isinstance(x, Tensor), isinstance(y, Tensor)
    if any(tensors) != all(tensors):
        raise DataError("Both samples must be tensors, or both arrays; found one of each.")
    rows = [as_real_rows(side, f"The sample {name}") for name, side in (("x", x), ("y", y))]
    for name, side in zip("xy", rows, strict=True):
        require_matrix(side, f"The sample {name}")
        require_finite(side, f"The sample {name}")
    found = dependence.distance_correlation(*rows, statistic=statistic)
    return found if all(tensors) else float(found)


class Objective(nn.Module):
    """A weighted sum of terms, with the learned heads of those that predict a target.

    `terms` are as in an experiment file, by name; docs/training.md lists their options. Widths are
    needed for learned heads only: `h_width` and `z_width` of the embeddings, and of `targets` by
    name. `references` are for terms that must know stored targets ahead.

    >>> objective = mvmr.Objective({"invariance": {"weight": 25}, "variance": {"on": "z"}})
    >>> z = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    >>> value = objective(z=(z, z))
    >>> float(value.terms["invariance"])
    0.0
    """

    @public
    def __init__(
        self,
        terms: Mapping[str, Any],
        *,
        h_width: Count | None = None,
        z_width: Count | None = None,
        targets: Mapping[str, int] | None = None,
        references: Mapping[str, Reference] | None = None,
    ) -> None:
        super().__init__()
        options = checked_by(ObjectiveOptions, dict(terms), "objective")
        widths = {"h": h_width, "z": z_width, **(targets or {})}
        self._widths = widths
        for needed in _widths_needed(options):
            if not widths.get(needed):
                say = f"{needed}_width" if needed in ("h", "z") else "its width in `targets`"
                raise ConfigError(
                    "A term learns a map from an embedding to a target, and the width of "
                    f"{needed!r} is not known: give {say}."
                )
        self.terms = TermsOfBatch(
            options,
            h_width=h_width or 0,
            z_width=z_width or 0,
            representation_widths={n: widths.get(n) or 0 for n in representations_of(options)},
            references=references,
        )

    @public
    def forward(
        self,
        *,
        h: Views | None = None,
        z: Views | None = None,
        targets: Mapping[str, ArrayLike] | None = None,
        progress: float = 0.0,
        seed: int = 0,
    ) -> ObjectiveValue:
        """Return `total`, a scalar, and the unweighted `terms` by name.

        `h` and `z` are embeddings (B, D): of the original and the augmented view, and then of any
        number of local ones, in this order or by name ("original", "augmented", "local-0",
        "local-1" and so on); a single tensor is for terms that do not compare views. `targets`
        (B, width) are rows of the original images. `progress`, from 0 to 1, is for weights that
        change, and `seed` for terms that draw. Raises ArgumentError for rows of other widths than
        the objective was made for, and for NaN and infinity; on a GPU these are not looked for,
        since a step would wait for it, and give a value that is not finite. Raises TrainingError if
        something that a term needs is missing.
        """
        rows = {n: as_real_rows(t, f"The target {n!r}") for n, t in (targets or {}).items()}
        activations = Activations(self._by_view(h, "h"), self._by_view(z, "z"))
        self._check(activations, rows)
        value: ObjectiveValue = self.terms(activations, rows, moment=Moment(progress, seed))
        return value

    def _check(self, activations: Activations, targets: Mapping[str, Tensor]) -> None:
        """Raise ArgumentError unless all are of the same images, TrainingError if some lack."""
        by_layer = {"h": activations.h, "z": activations.z}
        counts = {f"the target {name!r}": self._rows(x, name) for name, x in targets.items()}
        for layer, views in by_layer.items():
            for view, x in views.items():
                counts[f"{layer} of the {view} view"] = self._rows(x, layer, f"{layer} of {view}")
        if len(set(counts.values())) > 1:
            said = ", ".join(f"{count} of {what}" for what, count in counts.items())
            raise ArgumentError(
                f"All rows of a batch must be of the same images, in one order; found {said}."
            )
        for name, term in self.terms.terms.items():
            other = "z" if term.on == "h" else "h"
            if not by_layer[term.on] and by_layer[other]:
                raise TrainingError(
                    f"The term {name!r} acts on {term.on}, of which nothing was given: pass "
                    f"{term.on}=, or give the term on={other!r}."
                )

    def _rows(self, x: Tensor, name: str, what: str = "") -> int:
        """Return the number of rows; raises ArgumentError unless each has the width of `name`."""
        what = what or f"The target {name!r}"
        require_matrix(x, what)
        width = self._widths.get(name)
        if width and x.shape[1] != width:
            raise ArgumentError(
                f"{what} must have {width} numbers per image, as the objective was made for; found "
                f"{tuple(x.shape)}."
            )
        if x.device.type == "cpu":
            require_finite(x, what)
        return len(x)

    def _by_view(self, views: Views | None, name: str) -> Mapping[View, Tensor]:
        if views is None:
            return {}
        if isinstance(views, Mapping):
            known = all_views(len({*views} - {*GLOBAL_VIEWS}))
            if unknown := [view for view in views if view not in known]:
                raise DataError(f"{name}: {unknown_name('view', str(unknown[0]), known)}")
            return views
        if isinstance(views, Tensor):
            comparing = [n for n, term in self.terms.terms.items() if compares_views(term)]
            if comparing:
                raise DataError(
                    f"{', '.join(comparing)} of the objective compares two views: give {name} as a "
                    "pair (original, augmented)."
                )
            return dict.fromkeys(GLOBAL_VIEWS, views)
        local = len(views) - len(GLOBAL_VIEWS)
        if local < 0:
            raise DataError(
                f"{name} is a tensor (B, D), a sequence (original, augmented, further local views) "
                f"or a dictionary; found {counted(len(views), 'tensors')}."
            )
        return dict(zip(all_views(local), views, strict=True))


def _widths_needed(terms: Mapping[str, AnyTerm]) -> Iterator[str]:
    """Yield the embeddings and representations between which heads are learned."""
    for _, term in with_representation(terms):
        if not isinstance(term, DependenceTerm):
            yield from (term.on, term.representation)
