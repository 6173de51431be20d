"""The labels term, against scipy: its value, rows without a label, and its trivial answer."""

from typing import Any

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from pydantic import TypeAdapter
from torch import Tensor

from pipeline.base.errors import ArgumentError, ConfigError, TrainingError
from pipeline.objective.losses import label_cross_entropy, label_entropy
from pipeline.objective.objective import Objective
from pipeline.objective.shared_batch import Activations
from pipeline.objective.terms import ObjectiveOptions, views_of

B, D, K = 12, 5, 4
COUNTS = torch.tensor([6, 0, 3, 3])
LABELS = torch.tensor([0, 0, 2, 3, -1, 0, 0, 2, 3, 0, 0, -1])


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def objective(counts: Tensor | None = COUNTS, **options: Any) -> Objective:
    terms = TypeAdapter(ObjectiveOptions).validate_python({"labels": options})
    return Objective(terms, h_width=D, z_width=D, representation_widths={}, class_counts=counts)


def views(**h: Tensor) -> Activations:
    return Activations(h, {})


def reference(logits: Tensor, labels: Tensor) -> float:
    rows, classes = logits.double().numpy(), labels.numpy()
    known = np.flatnonzero(classes >= 0)
    logs = scipy.special.log_softmax(rows, axis=1)
    return float(-logs[known, classes[known]].mean())


def test_it_is_the_cross_entropy_of_the_labelled_rows() -> None:
    logits = 3 * normal(B, K)
    assert float(label_cross_entropy(logits, LABELS)) == pytest.approx(
        reference(logits, LABELS), rel=1e-6
    )
    other = logits.clone()
    other[LABELS < 0] = 100  # rows without a label do not count
    assert label_cross_entropy(other, LABELS) == label_cross_entropy(logits, LABELS)


def test_its_gradient_is_that_of_finite_differences() -> None:
    logits = normal(B, K).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: label_cross_entropy(x, LABELS), (logits,))


def test_a_batch_without_labels_has_no_loss_and_no_gradient() -> None:
    logits = normal(B, K).requires_grad_()
    loss = label_cross_entropy(logits, torch.full((B,), -1))
    torch.autograd.backward(loss)
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_one_label_for_each_row() -> None:
    with pytest.raises(ArgumentError, match="one label for each of 12 rows"):
        label_cross_entropy(normal(B, K), LABELS[1:])


def test_the_best_constant_scores_the_entropy_of_the_classes() -> None:
    expected = scipy.stats.entropy(COUNTS.numpy())
    assert float(label_entropy(COUNTS)) == pytest.approx(expected, rel=1e-6)
    built = objective().eval()
    head: Any = built.heads["to_labels"]
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_((COUNTS / COUNTS.sum()).clamp_min(1e-30).log())
    drawn = torch.repeat_interleave(torch.arange(K), COUNTS)
    h = normal(len(drawn), D)
    value = built(views(original=h, augmented=h), {}, labels=drawn)
    torch.testing.assert_close(value.terms["labels"], value.trivial["labels"])


@pytest.mark.parametrize("view", ["original", "augmented", "both"])
def test_it_classifies_the_views_that_it_names(view: str) -> None:
    built = objective(view=view)
    h = {"original": normal(B, D), "augmented": normal(B, D, seed=1)}
    named = list(h) if view == "both" else [view]
    assert views_of(built.terms) == set(named)
    value = built(views(**{name: h[name] for name in named}), {}, labels=LABELS)
    expected = [reference(built.heads["to_labels"](h[name]).detach(), LABELS) for name in named]
    assert value.terms["labels"].item() == pytest.approx(sum(expected) / len(named), rel=1e-5)


def test_it_says_what_is_missing() -> None:
    h = normal(B, D)
    with pytest.raises(TrainingError, match="needs labels"):
        objective()(views(original=h, augmented=h), {})
    for counts in (None, torch.zeros(3, dtype=torch.int64)):
        with pytest.raises(ConfigError, match="'labels' needs training images with one class"):
            objective(counts)
