"""What is given in another form is refused by a sentence, instead of giving another quantity."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from stores import store_rows
from torch import Tensor

from pipeline.base.errors import MvmrError
from pipeline.dependence.distance_correlation import Sample, distance_correlation
from pipeline.dependence.distances import pairwise_distances
from pipeline.evaluation.knn import KnnOptions, knn_probe
from pipeline.evaluation.labelled_features import LabelledFeatures, class_indices
from pipeline.evaluation.linear import LinearOptions, linear_probe, ten_crop
from pipeline.evaluation.logistic import fit_binary, fit_logistic
from pipeline.evaluation.retrieval import mean_dependence
from pipeline.evaluation.zero_shot import RidgeMap
from pipeline.features.encoding import Encoding
from pipeline.features.principal_components import fit_pca
from pipeline.features.projection import Projection
from pipeline.features.whitening import whitened
from pipeline.images.original_view import ImageOptions, denormalise, normalise
from pipeline.images.preparation import OriginalView
from pipeline.images.random_views import AugmentationOptions, build_augmentation
from pipeline.metrics.accuracy import bootstrap_interval, per_class_accuracy, top_k_accuracy
from pipeline.metrics.average_precision import average_precision, bootstrap_mean, mean_over_classes
from pipeline.metrics.effective_rank import effective_rank
from pipeline.metrics.intervals import wilson
from pipeline.metrics.neighbours import nearest, vote
from pipeline.metrics.paired import paired
from pipeline.objective.affinities import affinity_divergence
from pipeline.objective.losses import (
    cosine_distance,
    covariance_penalty,
    mean_squared_error,
    standardised,
    variance_hinge,
)
from pipeline.objective.objective import Moment
from pipeline.objective.regularisers import barlow, gaussian_distance
from pipeline.objective.row_losses import best_constant_loss, cosine_rows, squared_rows
from pipeline.representations.augmented import AugmentedOptions
from pipeline.representations.dct import dct_2d
from pipeline.representations.hog import HogOptions, hog
from pipeline.representations.local_std import local_std
from pipeline.representations.pixels import PixelsOptions
from pipeline.representations.scattering import Scattering2D
from pipeline.representations.teachers.frozen import FrozenTeacher

CPU = torch.device("cpu")
RGB = ImageOptions(size=8, mean=(0.5,) * 3, std=(0.2,) * 3)
ONES = torch.ones(4, dtype=torch.int64)
AUGMENTED = LinearOptions(augmentation=AugmentationOptions())
HOLED = torch.full((4, 3), 1.0).index_fill(0, torch.tensor([2]), float("nan"))
TWO = torch.arange(20) % 2


def rows(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def unit(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def bytes_of(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.uint8)


def labelled(width: int) -> LabelledFeatures:
    return LabelledFeatures(rows(20, width), TWO)


def probe(run: Callable[..., Any], widths: tuple[int, int, int], options: Any) -> Any:
    return run(*map(labelled, widths), options=options, device=CPU)


def affinity(predicted: Any = None, bank: Any = None, **more: Any) -> Tensor:
    options = {"temperature": 0.1, "target_temperature": 0.1, **more}
    predicted = [rows(4, 3)] if predicted is None else predicted
    bank = rows(5, 3) if bank is None else bank
    return affinity_divergence(predicted, rows(4, 3), bank, **options)


def found(k: int = 2) -> Any:
    return nearest(rows(3, 4), rows(8, 4), k=k, device=CPU)


def voted(labels: Tensor, k: int = 2, temperature: Any = 0.1) -> Tensor:
    return vote(found(), labels, classes=2, k=k, temperature=temperature)


def binary(present: Tensor) -> Any:
    return fit_binary(rows(20, 4), present, l2s=[0.1], max_iterations=5, tolerance=1e-4, device=CPU)


REFUSED: dict[str, tuple[str, Callable[[], Any]]] = {
    # images
    "floats in [0, 255]": (r"lie in \[0, 1\]", lambda: normalise(255 * unit(2, 3, 8, 8), RGB)),
    "normalised twice": (r"lie in \[0, 1\]", lambda: normalise(rows(2, 3, 8, 8), RGB)),
    "NaN pixels": (r"lie in \[0, 1\]", lambda: normalise(HOLED.expand(1, 3, 4, 3), RGB)),
    "int64 pixels": ("found torch.int64", lambda: normalise(TWO.long().expand(3, 2, 20), RGB)),
    "one channel for three": ("3, H, W", lambda: normalise(unit(2, 1, 8, 8), RGB)),
    "one channel put back": ("3, H, W", lambda: denormalise(unit(2, 1, 8, 8), RGB)),
    "bytes put back": ("floating-point", lambda: denormalise(bytes_of(2, 3, 8, 8), RGB)),
    "views of [0, 255]": (r"lie in \[0, 1\]", lambda: view(255 * unit(2, 3, 8, 8))),
    "views of normalised ones": (r"lie in \[0, 1\]", lambda: view(rows(2, 3, 8, 8))),
    "views of int64": ("found torch.int64", lambda: view(bytes_of(2, 3, 8, 8).long())),
    "views of one image": ("B, 3, 8, 8", lambda: view(unit(3, 8, 8))),
    "crops of crops": ("as large", lambda: ten_crop(unit(2, 3, 8, 8), 16)),
    # representations
    "bytes as pixels": ("normalised images", lambda: pixels(bytes_of(2, 3, 8, 8))),
    "one image as three": ("normalised images", lambda: pixels(rows(3, 8, 8))),
    "another size": ("normalised images", lambda: pixels(rows(2, 3, 9, 9))),
    "grey for colour": ("normalised images", lambda: HogOptions().build(RGB)(rows(2, 1, 8, 8))),
    "augmented bytes": ("floating-point", lambda: augmented(bytes_of(2, 3, 8, 8))),
    "augmented of another size": ("normalised images", lambda: augmented(rows(2, 3, 9, 9))),
    "teacher's bytes": ("floating-point", lambda: teacher(bytes_of(2, 3, 8, 8))),
    "hog of one image": ("B, C, H, W", lambda: hog(rows(3, 32, 32))),
    "hog of bytes": ("floating-point", lambda: hog(bytes_of(1, 3, 32, 32))),
    "hog without cells": ("cells of 64", lambda: hog(rows(1, 3, 32, 32), cell=64)),
    "dct of bytes": ("floating-point", lambda: dct_2d(bytes_of(1, 3, 8, 8))),
    "deviation of bytes": ("floating-point", lambda: local_std(bytes_of(1, 3, 8, 8))),
    "deviation of a pixel": ("at least 2 pixels", lambda: local_std(rows(1, 3, 1, 1))),
    "third order": ("order = 3", lambda: Scattering2D((8, 8), order=3)),
    "half a scale": ("whole J", lambda: Scattering2D((8, 8), J=1.5)),  # type: ignore[arg-type]
    "scattering of bytes": ("float32 or float64", lambda: Scattering2D((8, 8))(bytes_of(2, 8, 8))),
    # dependence
    "unknown statistic": ("Did you mean 'dcor'", lambda: correlate(statistic="dcorr")),
    "one row": ("at least 2 rows", lambda: distance_correlation(rows(1, 4), rows(1, 4))),
    "a vector": ("matrix", lambda: distance_correlation(rows(8), rows(8))),
    "no columns": ("matrix", lambda: distance_correlation(rows(8, 0), rows(8, 2))),
    "complex": ("real numbers", lambda: distance_correlation(1j * rows(8, 2), rows(8, 2))),
    "complex distances": ("real numbers", lambda: pairwise_distances(1j * rows(8, 2))),
    "distances of a vector": ("matrix", lambda: pairwise_distances(rows(8))),
    "rows as distances": ("symmetric", lambda: Sample.of_distances(rows(8, 8))),
    "oblong distances": ("symmetric", lambda: Sample.of_distances(rows(8, 3))),
    # objective
    "empty mse": ("at least 1 row", lambda: mean_squared_error(rows(0, 2), rows(0, 2))),
    "mse without columns": ("matrix", lambda: mean_squared_error(rows(8, 0), rows(8, 0))),
    "complex mse": ("real", lambda: mean_squared_error(1j * rows(8, 2), 1j * rows(8, 2))),
    "mse of vectors": ("matrix", lambda: mean_squared_error(rows(8), rows(8))),
    "empty cosine": ("at least 1 row", lambda: cosine_distance(rows(0, 2), rows(0, 2))),
    "variance of a vector": ("matrix", lambda: variance_hinge(rows(8))),
    "covariance of a vector": ("matrix", lambda: covariance_penalty(rows(8))),
    "complex covariance": ("real", lambda: covariance_penalty(1j * rows(8, 2))),
    "covariance without columns": ("matrix", lambda: covariance_penalty(rows(8, 0))),
    "standardised vector": ("matrix", lambda: standardised(rows(8))),
    "barlow of maps": ("matrix", lambda: barlow(rows(8, 2, 2), rows(8, 2, 2), off_diagonal=0.1)),
    "no directions": ("columns", lambda: gaussian_distance(rows(8, 2), rows(2, 0))),
    "other directions": ("columns", lambda: gaussian_distance(rows(8, 2), rows(3, 4))),
    "cosine of vectors": ("matrix", lambda: cosine_rows(rows(8), rows(8))),
    "empty rows": ("at least 1 row", lambda: squared_rows(rows(0, 3), rows(0, 3))),
    "best constant of none": ("at least 1 row", lambda: best_constant_loss("cosine", rows(0, 3))),
    "unknown loss": ("Did you mean 'cosine'", lambda: best_constant_loss("cosin", rows(4, 3))),
    "temperature 0": ("above", lambda: affinity(temperature=0)),
    "another bank": ("rows of 3 numbers", lambda: affinity(bank=rows(5, 2))),
    "empty bank": ("rows of 3 numbers", lambda: affinity(bank=rows(0, 3))),
    "no views": ("at least one view", lambda: affinity(predicted=[])),
    "one own row": ("as its own", lambda: affinity(own=ONES[:1])),
    "after the end": ("from 0 to 1", lambda: Moment(progress=1.5)),
    # metrics
    "NaN scores": ("not NaN", lambda: top_k_accuracy(HOLED, ONES)),
    "NO_LABEL as target": ("from 0 to 2", lambda: top_k_accuracy(rows(4, 3), -ONES)),
    "another class": ("from 0 to 2", lambda: top_k_accuracy(rows(4, 3), 3 * ONES)),
    "one target": ("shape", lambda: top_k_accuracy(rows(4, 3), ONES[:1])),
    "a column of targets": ("shape", lambda: top_k_accuracy(rows(4, 3), ONES[:, None])),
    "targets of floats": ("integer", lambda: top_k_accuracy(rows(4, 3), ONES / 2)),
    "nobody's first": ("at least 1", lambda: top_k_accuracy(rows(4, 3), ONES, k=0)),
    "one prediction": ("shape", lambda: per_class_accuracy(ONES[:1], ONES, classes=3)),
    "predicted floats": ("integer", lambda: per_class_accuracy(ONES * 0.7, ONES, classes=3)),
    "NO_LABEL confused": ("from 0 to 2", lambda: per_class_accuracy(ONES, -ONES, classes=3)),
    "NaN mean": ("finite", lambda: bootstrap_interval(HOLED[:, 0], seed=0)),
    "mean of a matrix": ("value", lambda: bootstrap_interval(rows(4, 2), seed=0)),
    "level 2": ("between 0 and 1", lambda: bootstrap_interval(rows(4), seed=0, level=2.0)),
    "NaN ranking": ("not NaN", lambda: average_precision(HOLED[:, 0], ONES)),
    "twice present": ("1, 0 or below", lambda: average_precision(rows(4), 2 * ONES)),
    "nothing counts": ("counts", lambda: average_precision(rows(4), -ONES)),
    "one label": ("shape", lambda: average_precision(rows(4), ONES[:1])),
    "fewer classes": ("shape", lambda: mean_over_classes(rows(4, 3), torch.ones(4, 2))),
    "no resamples": (
        "resample",
        lambda: bootstrap_mean(rows(4, 1), ONES[:, None], seed=0, resamples=0),
    ),
    "rank of NaN": ("finite", lambda: effective_rank(HOLED)),
    "rank of nothing": ("shape", lambda: effective_rank(rows(0, 4))),
    "near NaN": ("finite", lambda: nearest(HOLED, rows(8, 3), k=2, device=CPU)),
    "another width": ("one width", lambda: nearest(rows(3, 5), rows(8, 4), k=2, device=CPU)),
    "no neighbours": ("k of at least 1", lambda: found(k=0)),
    "not itself": (
        "the bank itself",
        lambda: nearest(rows(3, 4), rows(8, 4), k=2, device=CPU, exclude_self=True),
    ),
    "more votes": ("1 to 2 neighbours", lambda: voted(ONES[:1].expand(8), k=5)),
    "cold vote": ("above 0", lambda: voted(ONES[:1].expand(8), temperature=0)),
    "NO_LABEL votes": ("from 0 to 1", lambda: voted(-ONES[:1].expand(8))),
    "share of none": ("at least one", lambda: wilson(0, 0)),
    "more than all": ("at least one", lambda: wilson(5, 3)),
    "NaN pairs": ("finite", lambda: paired(np.array([np.nan, 1.0]), np.zeros(2), seed=0)),
    # probes
    "NO_LABEL as a class": ("must be left out", lambda: LabelledFeatures(rows(4, 2), -ONES)),
    "labels of booleans": ("integer", lambda: LabelledFeatures(rows(4, 2), ONES > 0)),
    "unseen class": ("none of the 3", lambda: class_indices(5 * ONES, torch.tensor([0, 1, 7]))),
    "knn of two widths": ("one width", lambda: probe(knn_probe, (3, 4, 4), KnnOptions(ks=(2,)))),
    "linear of two widths": ("one width", lambda: probe(linear_probe, (4, 4, 3), LinearOptions())),
    "augmentation ignored": ("need images", lambda: probe(linear_probe, (4, 4, 4), AUGMENTED)),
    "crops ignored": (
        "need images",
        lambda: probe(linear_probe, (4, 4, 4), LinearOptions(ten_crop=True)),
    ),
    "no penalty": (
        "at least one penalty",
        lambda: fit_logistic(labelled(4), l2s=[], max_iterations=5, tolerance=1e-4, device=CPU),
    ),
    "no image counts": ("one that counts", lambda: binary(-torch.ones(20, 2))),
    "fewer labels": ("shape", lambda: binary(torch.ones(10, 2))),
    "fewer targets": ("shape", lambda: RidgeMap(rows(8, 4), rows(7, 4))),
    "more images": ("shape", lambda: mean_dependence(rows(8, 4), rows(9, 4), 0)),
    # features
    "one row to fit": ("as many images", lambda: fit_pca(rows(1, 4), 1, seed=0)),
    "no component": ("as many images", lambda: fit_pca(rows(8, 4), 0, seed=0)),
    "other vectors": ("have 4 numbers", lambda: fit_pca(rows(8, 4), 2, seed=0).apply(rows(8, 5))),
    "projected others": ("have 10 numbers", lambda: Projection.draw(10, 4, 0).apply(rows(8, 12))),
    "to no numbers": ("one at least", lambda: Projection.draw(10, 0, 0)),
    "one mean for all": ("4 components", lambda: whitened(rows(8, 4), rows(1), unit(1), 1.0)),
    "a row to encode": ("real matrix", lambda: Encoding("float16").encode(np.zeros(4))),
    "complex to encode": ("real matrix", lambda: Encoding("float16").encode(1j * np.ones((4, 2)))),
    "unknown type": ("Unknown stored type", lambda: Encoding("float8")),  # type: ignore[arg-type]
    "int8 without a fit": ("fitted", lambda: Encoding("int8").encode(np.ones((4, 2)))),
    "int8 of NaN": ("not finite", lambda: Encoding.fit("int8", HOLED.numpy())),
    "int8 of others": (
        "matrix of 3",
        lambda: Encoding.fit("int8", rows(4, 3).numpy()).encode(np.ones((4, 1))),
    ),
}


def view(images: Tensor) -> Tensor:
    views: Tensor = build_augmentation(AugmentationOptions(), RGB)(images)
    return views


def pixels(images: Tensor) -> Any:
    return PixelsOptions().build(RGB)(images)


def augmented(images: Tensor) -> Any:
    return AugmentedOptions().build(RGB)(images)


def teacher(images: Tensor) -> Any:
    return FrozenTeacher(torch.nn.Flatten(), OriginalView(RGB), {}, "float32")(images)


def correlate(**options: Any) -> Tensor:
    return distance_correlation(rows(8, 4), rows(8, 2), **options)


@pytest.mark.parametrize("case", REFUSED)
def test_another_form_is_refused_by_a_sentence(case: str) -> None:
    message, call = REFUSED[case]
    with pytest.raises(MvmrError, match=message) as caught:
        call()
    assert str(caught.value).endswith((".", "?"))


def test_half_precision_is_widened_and_not_refused() -> None:
    x, y = (300 * rows(64, 8)).half(), (300 * rows(64, 8)).half() + 1
    for loss in (covariance_penalty, variance_hinge):
        torch.testing.assert_close(loss(x), loss(x.float()))
    torch.testing.assert_close(mean_squared_error(x, y), mean_squared_error(x.float(), y.float()))
    assert hog(unit(1, 3, 8, 8).half()).dtype == torch.float32


def test_an_empty_batch_of_images_stays_an_empty_batch() -> None:
    assert normalise(unit(0, 3, 8, 8), RGB).shape == view(unit(0, 3, 8, 8)).shape == (0, 3, 8, 8)


def test_rows_of_a_feature_are_only_those_that_it_has(tmp_path: Any) -> None:
    feature = store_rows(tmp_path, "x", rows(10, 3).numpy(), samples_per_shard=5)
    assert feature.read("train", 3, 10).shape == (7, 3)
    for first, last in ((0, 11), (-2, 3), (5, 4)):
        with pytest.raises(MvmrError, match="has 10 rows; asked for"):
            feature.read("train", first, last)
