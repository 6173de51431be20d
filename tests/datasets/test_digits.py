"""scikit-learn's digits, as they are and with a margin."""

from pathlib import Path

import numpy as np
import pytest
from replicas import opened, pixels_of
from sklearn.datasets import load_digits

from pipeline.base.errors import DataError
from pipeline.datasets import digits
from pipeline.datasets.digits import Digits


def test_scans_are_those_of_the_library_with_a_black_margin() -> None:
    plain, wide = opened(kind="digits"), opened(kind="digits", margin=2)
    scans = np.rint(load_digits().images[:50] * (255 / 16))
    for scan, item, wider in zip(scans, plain.splits["train"], wide.splits["train"], strict=False):
        assert np.array_equal(pixels_of(plain, item), scan)
        assert np.array_equal(pixels_of(wide, wider), np.pad(scan, 2))
        assert (item.name, item.label) == (wider.name, wider.label)


def test_another_margin_is_noticed_as_other_images() -> None:
    digests = {opened(kind="digits", margin=margin).listing_digest() for margin in (0, 1, 2)}
    assert len(digests) == 3
    assert opened(kind="digits").listing_digest() in digests


def test_scans_that_are_not_installed_are_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "SHIPPED", Path("gone.csv.gz"))
    with pytest.raises(DataError, match=r"gone\.csv\.gz of scikit-learn's package"):
        Digits()
