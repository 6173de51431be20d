"""Numbers for draws: uniform, independent, and of a row and its seeds alone."""

import numpy as np
from scipy.stats import kstest

from pipeline.base.seeds import numbers_of


def test_they_are_uniform_and_independent() -> None:
    found = numbers_of(range(20_000), 8, 3, 1)
    assert found.min() >= 0
    assert found.max() < 1
    for column in found.T:
        assert kstest(column, "uniform").pvalue > 1e-4
    within = np.corrcoef(found.T) - np.eye(8)
    following = np.corrcoef(found[:-1].T, found[1:].T)[:8, 8:]
    assert np.abs([within, following]).max() < 0.04  # 5 standard errors


def test_a_row_has_its_numbers_wherever_it_stands() -> None:
    every = numbers_of(range(100), 5, 1, 2)
    assert np.array_equal(numbers_of([70, 3], 5, 1, 2), every[[70, 3]])
    assert np.array_equal(numbers_of([70, 3], 2, 1, 2), every[[70, 3], :2])


def test_other_seeds_give_other_numbers() -> None:
    found = [numbers_of(range(1000), 3, *seeds) for seeds in ((1, 2), (2, 1), (1,), (1, 2, 0))]
    together = np.concatenate(found)
    assert len(np.unique(together)) == together.size
