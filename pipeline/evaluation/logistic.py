"""Logistic regression with an L2 penalty on frozen features, fitted to the optimum.

Two losses share one solver: multinomial (one label per image), and one binary problem per class
(several labels per image, some of them ignored).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.base.arguments import require_features, require_shape
from pipeline.base.errors import ArgumentError, DataError
from pipeline.base.progress import Progress
from pipeline.evaluation.labelled_features import LabelledFeatures, class_indices, classes_of
from pipeline.evaluation.standardisation import Standardisation

_ROWS_AT_ONCE = 2048  # rows of features stay in the cache between the two products
_GRAM_NUMBERS = 2**26  # values of features that the covariance is taken from
_LINE_SEARCH = 25  # at most this many evaluations per iteration
_WIDEST_GRAM = 8192  # for wider features, the covariance is not worth its memory


@dataclass(frozen=True)
class LinearClassifier:
    """A classifier of features: weight (D, K), bias (K,), and the labels of its columns.

    Weight and bias are for standardised features, if there is a `standardisation`.
    """

    weight: Tensor
    bias: Tensor
    classes: Tensor
    standardisation: Standardisation | None = None

    def logits(self, features: Tensor) -> Tensor:
        """Map features (N, D) to logits (N, K), on the classifier's device."""
        parts = []
        for rows in torch.split(features, _ROWS_AT_ONCE):
            if self.standardisation is not None:
                rows = self.standardisation.apply(rows)
            parts.append(torch.addmm(self.bias, rows.to(self.weight), self.weight))
        return torch.cat(parts)

    def to(self, device: torch.device) -> "LinearClassifier":
        """Return the same on a device; the classes stay where they are."""
        known = self.standardisation
        return replace(
            self,
            weight=self.weight.to(device),
            bias=self.bias.to(device),
            standardisation=None if known is None else known.to(device),
        )


def fit_logistic(
    train: LabelledFeatures,
    *,
    l2s: Sequence[float],
    max_iterations: int,
    tolerance: float,
    device: torch.device,
    progress: Progress | None = None,
) -> list[tuple[LinearClassifier, bool]]:
    """Return, for each penalty, the optimal classifier and whether the optimum was reached.

    Features are standardised by their own statistics, and the penalty acts on the weights of
    standardised features; a constant feature gets weight 0. Each fit starts where the one before
    ended, so strengths in decreasing order are fastest.
    """
    classes = classes_of(train.labels)
    standardisation = Standardisation.of(train.features, device)
    targets = class_indices(train.labels, classes).to(device)
    problem = _Multinomial(standardisation.apply(train.features), targets, len(classes))
    return [
        (_classifier(weight, classes.to(device), standardisation), converged)
        for weight, converged in _path(problem, l2s, max_iterations, tolerance, progress)
    ]


def fit_binary(
    features: Tensor,
    present: Tensor,
    *,
    l2s: Sequence[float],
    max_iterations: int,
    tolerance: float,
    device: torch.device,
    progress: Progress | None = None,
) -> list[tuple[LinearClassifier, bool]]:
    """Return, for each penalty, K independent two-class classifiers of features (N, D).

    `present` (N, K) is 1 or 0, and negative where the image does not count for that class. Each
    class's loss is the mean over the images that count. Otherwise, this is like `fit_logistic`.
    Raises DataError if no image counts for a class, or if labels and features do not go together.
    """
    require_features(features)
    require_shape(present, "labels", (len(features), *present.shape[1:2]))
    if present.max() > 1 or not (present >= 0).any(dim=0).all():
        raise DataError(
            "Labels are 1, 0, or below to be ignored; each class needs one that counts."
        )
    standardisation = Standardisation.of(features, device)
    problem = _Binary(standardisation.apply(features), present.to(device))
    classes = torch.arange(present.shape[1], device=device)
    return [
        (_classifier(weight, classes, standardisation), converged)
        for weight, converged in _path(problem, l2s, max_iterations, tolerance, progress)
    ]


def _classifier(
    weight: Tensor, classes: Tensor, standardisation: Standardisation
) -> LinearClassifier:
    """Return the classifier of a minimiser (D + 1, K), whose last row is the intercept."""
    return LinearClassifier(weight[:-1], weight[-1], classes, standardisation)


def _path(
    problem: "_Problem",
    l2s: Sequence[float],
    max_iterations: int,
    tolerance: float,
    progress: Progress | None,
) -> Iterator[tuple[Tensor, bool]]:
    if not l2s:
        raise ArgumentError("A fit needs at least one penalty; found none.")
    features = problem.features
    weight = features.new_zeros(features.shape[1] + 1, problem.outputs)  # last row: the intercept
    for l2 in l2s:
        weight, converged = _minimise(problem, weight, l2, max_iterations, tolerance)
        if progress is not None:
            progress.advance(1)
        yield weight, converged


class _Problem(ABC):
    """A loss of standardised features (N, D) and K outputs, its gradient and its curvature.

    `counts` (K,) are the numbers of images that count for each output. `curvature` is the second
    derivative of an image's loss with respect to an output, if all classes are equally likely.
    """

    def __init__(self, features: Tensor, counts: Tensor, curvature: float) -> None:
        self.features = features
        self.counts = counts.to(features)
        self.outputs = len(counts)
        self.curvature = curvature
        self.covariance = _covariance(features) if features.shape[1] <= _WIDEST_GRAM else None

    @abstractmethod
    def block(self, rows: slice, logits: Tensor) -> tuple[float, Tensor]:
        """Return what rows with logits (K, rows) add to the loss, and their errors (K, rows).

        An error is the gradient with respect to a logit, times the output's count.
        """

    def loss_and_gradient(self, weight: Tensor, l2: float) -> tuple[float, Tensor]:
        """Return objective and gradient at `weight` (D + 1, K), whose last row is the intercept.

        Sums run over blocks of rows, since the logits of all images could exceed the memory. Logits
        are stored as (K, rows), which makes both products several times faster on a CPU.
        """
        w, bias = weight[:-1].T.contiguous(), weight[-1]
        gradient, intercept = torch.zeros_like(w), torch.zeros_like(bias)
        loss = 0.0
        for first in range(0, len(self.features), _ROWS_AT_ONCE):
            rows = slice(first, first + _ROWS_AT_ONCE)
            x = self.features[rows]
            part, error = self.block(rows, torch.addmm(bias[:, None], w, x.T))
            loss += part
            gradient.addmm_(error, x)
            intercept += error.sum(dim=1)
        means = gradient.T / self.counts
        slope = torch.cat([means + l2 * weight[:-1], (intercept / self.counts)[None]])
        return loss + l2 / 2 * w.double().square().sum().item(), slope

    def curvature_root(self, l2: float) -> Tensor | None:
        """Return lower-triangular R (D, D) with R R^T close to the Hessian of each class's weights.

        R R^T is the Hessian for equally likely classes, without the coupling of classes. A small
        ridge keeps the factorisation stable if features are redundant. Returns None if D is above
        `_WIDEST_GRAM`.
        """
        if self.covariance is None:
            return None
        hessian = self.covariance * self.curvature
        hessian.diagonal().add_(max(l2, 1e-5 * self.curvature))
        root: Tensor = torch.linalg.cholesky(hessian).float()
        return root


class _Multinomial(_Problem):
    """Mean cross entropy for one class per image, `targets` (N,)."""

    def __init__(self, features: Tensor, targets: Tensor, classes: int) -> None:
        super().__init__(features, torch.full((classes,), len(targets)), 1 / classes)
        self.targets = targets

    def block(self, rows: slice, logits: Tensor) -> tuple[float, Tensor]:
        """Return the cross entropy of some rows; see `_Problem`."""
        y, count = self.targets[rows], len(self.targets)
        log_p = logits.log_softmax(dim=0)
        # Near the optimum the line search compares losses that differ in the eighth digit.
        loss = -log_p.gather(0, y[None]).double().sum().item()
        return loss / count, log_p.exp_() - F.one_hot(y, self.outputs).T


class _Binary(_Problem):
    """Sum over classes of the mean binary cross entropy; negative `present` (N, K) are ignored."""

    def __init__(self, features: Tensor, present: Tensor) -> None:
        super().__init__(features, (present >= 0).sum(dim=0).clamp_min(1), 1 / 4)
        self.targets = present.clamp_min(0).float().T.contiguous()  # (K, N)
        self.counted = (present >= 0).float().T.contiguous()  # (K, N)

    def block(self, rows: slice, logits: Tensor) -> tuple[float, Tensor]:
        """Return the binary cross entropies of some rows; see `_Problem`."""
        y, counted = self.targets[:, rows], self.counted[:, rows]
        losses = F.binary_cross_entropy_with_logits(logits, y, reduction="none") * counted
        loss = (losses.double().sum(dim=1) / self.counts).sum().item()
        return loss, (logits.sigmoid() - y) * counted


def _covariance(features: Tensor) -> Tensor:
    """Return the covariance (D, D), float64, of evenly spaced rows of features (N, D).

    It only speeds up the fit. If features are correlated, it is useless when taken from few rows.
    All rows of a large set would take longer than the fit.
    """
    count, width = features.shape
    rows = features[:: max(1, count // max(4 * width, _GRAM_NUMBERS // width))]
    return (rows.T @ rows / len(rows)).double()


def _minimise(
    problem: _Problem, start: Tensor, l2: float, max_iterations: int, tolerance: float
) -> tuple[Tensor, bool]:
    """Return the minimiser (D + 1, K), and whether the gradient fell below `tolerance`.

    L-BFGS runs in coordinates v = R^T w, in which the loss has about the same curvature in all
    directions. For features as correlated as pixels, this converges tens of times faster.
    """
    root = problem.curvature_root(l2)
    spread = problem.curvature**-0.5  # the same for the intercept, whose feature has variance 1

    def outward(v: Tensor) -> Tensor:
        if root is None:
            return v
        w = torch.linalg.solve_triangular(root.T, v[:-1], upper=True)
        return torch.cat([w, v[-1:] * spread])

    def slope(gradient: Tensor) -> Tensor:
        if root is None:
            return gradient
        v = torch.linalg.solve_triangular(root, gradient[:-1], upper=False)
        return torch.cat([v, gradient[-1:] * spread])

    def closure() -> float:
        loss, gradient = evaluated(v.detach())
        v.grad = slope(gradient)
        return loss

    evaluated = _Remembered(lambda v: problem.loss_and_gradient(outward(v), l2))
    inward = start if root is None else torch.cat([root.T @ start[:-1], start[-1:] / spread])
    v = inward.clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [v],
        max_iter=1,
        max_eval=_LINE_SEARCH + 1,
        tolerance_grad=0.0,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )
    for _ in range(max_iterations):
        optimiser.step(closure)  # type: ignore[no-untyped-call]  # PyTorch annotates half of it
        _, gradient = evaluated(v.detach())
        if gradient.abs().max() <= tolerance:
            return outward(v.detach()), True
    return outward(v.detach()), False


class _Remembered:
    """A function of one tensor that is not evaluated twice in a row at the same point.

    Each iteration of L-BFGS starts at the point that the one before evaluated last.
    """

    def __init__(self, function: Callable[[Tensor], tuple[float, Tensor]]) -> None:
        self._function = function
        self._last: tuple[Tensor, tuple[float, Tensor]] | None = None

    def __call__(self, point: Tensor) -> tuple[float, Tensor]:
        if self._last is None or not torch.equal(self._last[0], point):
            self._last = point.clone(), self._function(point)
        return self._last[1]
