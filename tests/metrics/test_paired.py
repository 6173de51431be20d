"""Comparing two scores of the same images, against scipy, closed forms and known pairs."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, bootstrap
from sklearn.metrics import balanced_accuracy_score

from pipeline.base.errors import DataError
from pipeline.evaluation.protocol import Outcome, PerImage
from pipeline.evaluation.record import read_per_image, write_per_image
from pipeline.metrics.paired import mcnemar, paired
from stages.experiment.paths import RunLayout
from stages.experiment.report_content import per_image


def hits(right: int, wrong: int) -> np.ndarray:
    return np.array([1.0] * right + [0.0] * wrong)


def split(wins: int, losses: int, both: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    first = np.concatenate([hits(wins, losses), hits(both, neither)])
    second = np.concatenate([hits(0, wins), hits(losses, 0), hits(both, neither)])
    return first, second


def test_a_difference_within_both_intervals_is_still_found() -> None:
    # 22 images won and 3 lost: the intervals of 93.8 and 90.0 % of 500 images overlap.
    found = paired(*split(22, 3, 447, 28), seed=0)
    assert (found.wins, found.losses, found.images) == (22, 3, 500)
    assert found.difference == pytest.approx(100 * 19 / 500)
    assert found.p == pytest.approx(2 * sum(math.comb(25, i) for i in range(4)) / 2**25)
    assert found.p == pytest.approx(0.000157, abs=1e-6)
    assert found.settled
    assert not paired(*split(14, 11, 447, 28), seed=0).settled


def test_the_interval_is_scipys_bootstrap_of_the_differences() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 11, (2, 400)) / 10
    found = paired(first, second, seed=0)
    expected = bootstrap(
        (first - second,), np.mean, n_resamples=4000, method="percentile", rng=rng
    ).confidence_interval
    reach = 100 * (expected.high - expected.low)
    assert found.low == pytest.approx(100 * expected.low, abs=0.05 * reach)
    assert found.high == pytest.approx(100 * expected.high, abs=0.05 * reach)
    assert found.p is None


def test_the_second_compared_with_the_first_is_the_same_turned_round() -> None:
    first, second = split(22, 3, 447, 28)
    turned, other = paired(first, second, seed=0).turned, paired(second, first, seed=1)
    assert (turned.wins, turned.losses, turned.p) == (other.wins, other.losses, other.p)
    assert turned.difference == other.difference
    assert turned.low < turned.difference < turned.high
    assert turned.low == pytest.approx(other.low, abs=0.3)
    assert turned.turned == paired(first, second, seed=0)


def test_the_interval_is_the_normal_one_of_a_paired_proportion() -> None:
    wins, losses, images = 300, 200, 4000
    found = paired(*split(wins, losses, 3000, 500), seed=1)
    spread = math.sqrt((wins + losses) / images - ((wins - losses) / images) ** 2)
    half = 100 * 1.96 * spread / math.sqrt(images)
    assert found.low == pytest.approx(2.5 - half, abs=0.08 * half)
    assert found.high == pytest.approx(2.5 + half, abs=0.08 * half)


def test_it_errs_about_as_rarely_as_promised_where_there_is_no_difference() -> None:
    rng = np.random.default_rng(0)
    easy = rng.random(300)  # easy images are easy for both
    said = [
        paired(
            (rng.random(300) < easy).astype(float), (rng.random(300) < easy).astype(float), seed=n
        ).settled
        for n in range(400)
    ]
    assert np.mean(said) < 0.07


@settings(max_examples=40, deadline=None)
@given(wins=st.integers(0, 60), losses=st.integers(0, 60))
def test_mcnemar_is_the_two_tails_of_the_binomial(wins: int, losses: int) -> None:
    fewer, both = min(wins, losses), wins + losses
    assert mcnemar(wins, losses) == pytest.approx(min(1, 2 * binom.cdf(fewer, both, 0.5)))
    assert mcnemar(wins, losses) == mcnemar(losses, wins)


def test_the_same_scores_and_exchanged_ones() -> None:
    first, second = split(9, 4, 60, 30)
    same = paired(first, first, seed=0)
    assert (same.difference, same.low, same.high, same.p) == (0, 0, 0, 1)
    assert not same.settled
    there, back = paired(first, second, seed=0), paired(second, first, seed=0)
    assert (there.wins, there.losses, there.p) == (back.losses, back.wins, back.p)
    assert there.difference == -back.difference
    order = np.random.default_rng(0).permutation(len(first))
    assert paired(first[order], second[order], seed=0) == there


def test_other_images_are_refused() -> None:
    with pytest.raises(DataError, match="the same images"):
        paired(hits(3, 1), hits(3, 2), seed=0)
    with pytest.raises(DataError, match="the same images"):
        paired(hits(0, 0), hits(0, 0), seed=0)


def outcome(main: str, rows: list[int], values: list[float]) -> Outcome:
    return Outcome(main, {}, {}, per_image=PerImage(torch.tensor(rows), torch.tensor(values)))


def test_what_each_image_got_survives_its_table(tmp_path: Path) -> None:
    path = tmp_path / "linear.csv"
    outcomes = {
        "student": outcome("agreement", [0, 2], [0.3, 1.0]),
        "pixels": outcome("agreement", [0, 2], [0.0, 1 / 3]),
        "clip": outcome("another", [0, 2], [1.0, 1.0]),
    }
    write_per_image(path, outcomes, ["a, b.png", "left out", 'c".png'], ["1", "2", "3"])
    found = read_per_image(path)
    assert found.names == ["a, b.png", 'c".png']
    assert list(found.values) == ["student", "pixels"]
    assert found.values["student"] == pytest.approx([0.3, 1])
    assert found.values["pixels"] == pytest.approx([0, 1 / 3], abs=1e-6)
    assert found.identities == ["1", "3"]
    lines = [line.split(",") for line in ("image,student", "a,1", "b,0")]  # of earlier versions
    path.write_text("\n".join(",".join(line) for line in lines))
    older = read_per_image(path)
    assert (older.names, older.identities) == (["a", "b"], [])
    assert found.common(older) == ([], [])


@pytest.mark.parametrize(
    "text", ["", "name,student\na,1\n", "image,student\na,x\n", "image,s\na\n"]
)
def test_a_damaged_table_is_reported(tmp_path: Path, text: str) -> None:
    path = tmp_path / "linear.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=r"is damaged .*: run `mvmr evaluate`"):
        read_per_image(path)


def test_a_figure_that_is_no_mean_of_images_leaves_an_empty_table(tmp_path: Path) -> None:
    write_per_image(tmp_path / "voc07.csv", {"student": Outcome("map", {}, {})}, ["a.png"], ["1"])
    found = read_per_image(tmp_path / "voc07.csv")
    assert (list(found.names), dict(found.values)) == ([], {})


def test_scores_and_a_table_of_different_evaluations_are_refused(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path)
    layout.metrics.mkdir()
    outcomes = {"student": outcome("top1", [0, 1, 2], [1.0, 0.0, 1.0])}
    write_per_image(layout.per_image("linear"), outcomes, ["a", "b", "c"], ["1", "2", "3"])
    own = {"linear": {"main": "top1", "top1": 66.6667}, "knn": {"main": "top1", "top1": 1.0}}
    assert list(per_image(layout, own)) == ["linear"]
    other = {"linear": {"main": "top1", "top1": 100.0}}
    with pytest.raises(DataError, match=r"linear are of different evaluations: run `mvmr eval"):
        per_image(layout, other)


def test_where_classes_count_alike_the_difference_is_of_balanced_accuracies() -> None:
    random = np.random.default_rng(0)
    actual, ours, theirs = random.choice(["a", "b", "c"], (3, 500), p=[0.8, 0.15, 0.05])
    first, second = (actual == ours).astype(float), (actual == theirs).astype(float)
    found = paired(first, second, seed=0, classes=list(actual))
    expected = balanced_accuracy_score(actual, ours) - balanced_accuracy_score(actual, theirs)
    assert found.difference == pytest.approx(100 * expected)
    assert found.p is None
    apart = first - second
    variance = np.mean([apart[actual == c].var() / (actual == c).sum() for c in "abc"]) / 3
    assert found.high - found.low == pytest.approx(100 * 2 * 1.96 * np.sqrt(variance), rel=0.06)
    alone = paired(first, second, seed=0, classes=["a"] * 500)
    assert (alone.difference, alone.low) == (
        paired(first, second, seed=0).difference,
        paired(first, second, seed=0).low,
    )
