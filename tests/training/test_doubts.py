"""Reasons to doubt a probe or the choice of an epoch, from the curves alone."""

from typing import Any

import pytest

from pipeline.metrics.intervals import wilson
from pipeline.training.curve_names import KNN, LABELLED, LARGEST_CLASS, PROBE
from pipeline.training.doubts import doubts

RULE = {"epoch": 2, "rule": PROBE, "score": 60.0}


def rows(*probe: float, images: int = 1000, largest: float = 12.0, knn: float = 50.0) -> list[Any]:
    return [
        {"epoch": i + 1.0, PROBE: score, KNN: knn, LABELLED: images, LARGEST_CLASS: largest}
        for i, score in enumerate(probe)
    ]


def test_a_clear_choice_by_a_probe_that_has_learnt_gives_no_reason() -> None:
    assert list(doubts(rows(40, 60, 50), RULE)) == []


def test_other_epochs_within_the_interval_of_the_chosen_one_are_named() -> None:
    (said,) = doubts(rows(59, 60, 40, 58.5), RULE)
    low, high = (100 * end for end in wilson(600, 1000))
    assert said.startswith("Epochs 1 and 4 score within the 95 % interval of the chosen epoch 2, ")
    assert f"{low:.1f} to {high:.1f} % of 1,000 validation images" in said
    (one,) = doubts(rows(59, 60, 40), RULE)
    assert one.startswith("Epoch 1 scores within")
    (many,) = doubts(rows(*[60.0] * 9), RULE)
    assert many.startswith("8 other epochs score within")


def test_few_images_make_a_choice_doubtful_that_many_settle() -> None:
    assert list(doubts(rows(40, 60, 50), RULE)) == []
    assert len(list(doubts(rows(40, 60, 50, images=80), RULE))) == 1


@pytest.mark.parametrize(("score", "doubtful"), [(23.8, True), (27.0, True), (35.0, False)])
def test_a_probe_at_the_share_of_the_largest_class_is_named(score: float, doubtful: bool) -> None:
    given = rows(1.0, score, images=341, largest=23.8)
    said = list(doubts(given, RULE))
    assert bool(said) == doubtful
    if doubtful:
        assert f"right on {score:.1f} % of 341 validation images" in said[0]
        assert "the largest class for all would be right on 23.8 %" in said[0]


def test_neighbours_are_doubted_as_the_probe_is() -> None:
    (said,) = doubts(rows(40, 60, 50, knn=13.0), RULE)
    assert said.startswith("The vote of nearest neighbours of epoch 2")


def test_a_choice_by_another_rule_is_not_doubted_for_the_probes_interval() -> None:
    chosen = {"epoch": 2, "rule": "validation/objective", "score": 0.3}
    assert list(doubts(rows(59, 60, 59), chosen)) == []


@pytest.mark.parametrize("given", [[], [{"epoch": 2.0, PROBE: 60.0}], [{"epoch": 1.0}]])
def test_curves_that_do_not_know_the_images_give_no_reason(given: list[Any]) -> None:
    assert list(doubts(given, RULE)) == []
