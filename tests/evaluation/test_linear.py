"""The linear probe against scikit-learn's optimum."""

import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from pipeline.base.errors import DataError
from pipeline.evaluation.labelled_features import LabelledFeatures
from pipeline.evaluation.linear import LinearOptions, LinearResult, linear_probe
from pipeline.evaluation.logistic import fit_logistic
from pipeline.images.decoding import decode
from pipeline.images.original_view import ImageOptions
from pipeline.representations.kinds import KINDS

CPU = torch.device("cpu")
PHOTOGRAPHS = Path(__file__).parents[3] / "shared/data/cifar10-jpeg.tar.xz"


def digits() -> tuple[LabelledFeatures, LabelledFeatures, LabelledFeatures]:
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    features, labels = torch.from_numpy(x[order]).float(), torch.from_numpy(y[order])
    parts = [slice(0, 1000), slice(1000, 1300), slice(1300, None)]
    train, validation, test = (LabelledFeatures(features[p], labels[p]) for p in parts)
    return train, validation, test


def blobs(
    classes: int, count: int = 240, width: int = 6, seed: int = 0, spread: float = 1.5
) -> LabelledFeatures:
    source = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(count) % classes
    noise = torch.randn(count, width, generator=source)
    scales = torch.logspace(-2, 2, width)  # features of very different scales
    return LabelledFeatures((centres[labels] + spread * noise) * scales + 3, labels)


def predicted(result: LinearResult) -> torch.Tensor:
    """Return the most likely label of each test image."""
    return result.classifier.classes[result.test_logits.argmax(dim=1)]


def scikit_learn(train: LabelledFeatures, l2: float) -> tuple[StandardScaler, LogisticRegression]:
    scaler = StandardScaler().fit(train.features.double().numpy())
    model = LogisticRegression(C=1 / (l2 * len(train)), tol=1e-7, max_iter=10_000)
    model.fit(scaler.transform(train.features.double().numpy()), train.labels.numpy())
    return scaler, model


@pytest.mark.parametrize("classes", [3, 5])
@pytest.mark.parametrize("l2", [1e-1, 1e-3])
def test_coefficients_agree_with_scikit_learn(classes: int, l2: float) -> None:
    train = blobs(classes)
    [(found, converged)] = fit_logistic(
        train, l2s=[l2], max_iterations=200, tolerance=3e-6, device=CPU
    )
    scaler, model = scikit_learn(train, l2)
    assert converged
    np.testing.assert_allclose(found.weight.double().numpy(), model.coef_.T, atol=2e-3)
    expected = model.predict_proba(scaler.transform(train.features.double().numpy()))
    probabilities = found.logits(train.features).softmax(dim=1).numpy()
    np.testing.assert_allclose(probabilities, expected, atol=1e-3)


def test_two_classes_agree_with_scikit_learn() -> None:
    train = blobs(2)
    [(found, _)] = fit_logistic(train, l2s=[1e-2], max_iterations=200, tolerance=1e-6, device=CPU)
    # Two columns share the penalty that scikit-learn puts on one: w and -w cost half of 2w.
    _, model = scikit_learn(train, 1e-2 / 2)
    difference = (found.weight[:, 1] - found.weight[:, 0]).double().numpy()
    np.testing.assert_allclose(difference, model.coef_[0], atol=2e-3)


def test_the_probe_scores_digits_as_scikit_learn_does() -> None:
    train, validation, test = digits()
    options = LinearOptions(l2=(1e-1, 1e-2, 1e-3, 1e-4))
    result = linear_probe(train, validation, test, options=options, device=CPU)
    assert all(result.converged)
    for l2, accuracy in zip(result.l2s, result.validation_accuracies, strict=True):
        scaler, model = scikit_learn(train, l2)
        expected = model.score(scaler.transform(validation.features), validation.labels)
        assert accuracy == pytest.approx(expected, abs=0.005), l2
    scaler, model = scikit_learn(train, result.l2)
    expected = model.score(scaler.transform(test.features), test.labels)
    found = (predicted(result) == test.labels).double().mean().item()
    assert found == pytest.approx(expected, abs=0.005)
    assert result.l2 == result.l2s[int(np.argmax(result.validation_accuracies))]


@pytest.mark.skipif(not PHOTOGRAPHS.is_file(), reason="the images in shared/data are missing")
def test_the_probe_scores_cifar10_as_scikit_learn_does() -> None:
    features, labels = cifar10_gradients(1500)
    train, rest = (
        LabelledFeatures(features[part], labels[part]) for part in (slice(1000), slice(1000, None))
    )
    options = LinearOptions(l2=(1e-1,))
    result = linear_probe(train, rest, rest, options=options, device=CPU)
    scaler, model = scikit_learn(train, 1e-1)
    expected = model.score(scaler.transform(rest.features), rest.labels)
    assert result.validation_accuracies[0] == pytest.approx(expected, abs=0.005)
    assert expected > 0.3


def cifar10_gradients(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return oriented gradients (count, 1152) and labels of CIFAR-10, with classes in turn."""
    image = ImageOptions(size=32, mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26))
    hog = KINDS["hog"].model_validate({"kind": "hog"}).build(image)
    with tarfile.open(PHOTOGRAPHS) as archive:
        taken: dict[str, list[torch.Tensor]] = {}
        for member in archive:
            _, _, name = member.name.rpartition("/")
            folder = Path(member.name).parent.name
            own = taken.setdefault(folder, [])
            if name.endswith(".jpg") and len(own) < count // 10:
                file = archive.extractfile(member)
                assert file is not None
                own.append(hog.preparation(decode(file.read())))
            if sum(len(images) for images in taken.values()) == count:
                break
    classes = [images for images in taken.values() if images]
    order = torch.arange(count).reshape(10, -1).T.flatten()  # one of each class in turn
    labels = torch.arange(10).repeat_interleave(count // 10)
    return hog(torch.stack([x for images in classes for x in images]))[order], labels[order]


def test_validation_chooses_the_penalty_and_test_labels_do_not_matter() -> None:
    train, validation, test = (blobs(3, seed=s, count=c) for s, c in ((0, 30), (1, 300), (2, 300)))
    options = LinearOptions(l2=(1e-6, 1.0))
    result = linear_probe(train, validation, test, options=options, device=CPU)
    shuffled = LabelledFeatures(test.features, test.labels.roll(1))
    again = linear_probe(train, validation, shuffled, options=options, device=CPU)
    assert result.l2s == (1.0, 1e-6)
    assert result.l2 == again.l2
    assert torch.equal(result.test_logits, again.test_logits)
    flipped = LabelledFeatures(validation.features, validation.labels.roll(1))
    other = linear_probe(train, flipped, test, options=options, device=CPU)
    assert other.validation_accuracies != result.validation_accuracies


def test_the_classifier_reproduces_the_scores_from_raw_features() -> None:
    train, validation, test = digits()
    result = linear_probe(train, validation, test, options=LinearOptions(l2=(1e-3,)), device=CPU)
    torch.testing.assert_close(result.classifier.logits(test.features), result.test_logits)


def test_labels_may_be_any_integers() -> None:
    names = torch.tensor([-7, 4, 90])
    plain = [blobs(3, seed=s) for s in range(3)]
    renamed = [LabelledFeatures(part.features, names[part.labels]) for part in plain]
    options = LinearOptions(l2=(1e-3,))
    a = linear_probe(*plain, options=options, device=CPU)
    b = linear_probe(*renamed, options=options, device=CPU)
    assert b.classifier.classes.tolist() == [-7, 4, 90]
    assert torch.equal(names[predicted(a)], predicted(b))


@settings(max_examples=10, deadline=None)
@given(scale=st.floats(0.1, 100), shift=st.floats(-10, 10))
def test_scale_and_shift_of_features_do_not_matter(scale: float, shift: float) -> None:
    train = blobs(3)
    moved = LabelledFeatures(train.features * scale + shift, train.labels)
    a, b = (
        fit_logistic(t, l2s=[1e-2], max_iterations=100, tolerance=1e-5, device=CPU)[0][0].logits(
            t.features
        )
        for t in (train, moved)
    )
    torch.testing.assert_close(a, b, atol=5e-3, rtol=0)


def test_constant_and_repeated_features_change_nothing() -> None:
    train = blobs(3)
    columns = [train.features, torch.full((len(train), 2), 1e4 / 3), train.features[:, :1]]
    wide = LabelledFeatures(torch.cat(columns, dim=1), train.labels)
    [(found, converged)] = fit_logistic(
        wide, l2s=[1e-2], max_iterations=200, tolerance=1e-6, device=CPU
    )
    scaler, model = scikit_learn(
        LabelledFeatures(torch.cat([train.features, train.features[:, :1]], dim=1), train.labels),
        1e-2,
    )
    assert converged
    assert (found.weight[6:8] == 0).all()
    kept = torch.cat([train.features, train.features[:, :1]], dim=1).double().numpy()
    probabilities = found.logits(wide.features).softmax(dim=1).numpy()
    np.testing.assert_allclose(
        probabilities, model.predict_proba(scaler.transform(kept)), atol=1e-3
    )


def test_more_features_than_images_converge() -> None:
    train = blobs(4, count=40, width=200)
    fits = fit_logistic(
        train, l2s=[1e-1, 1e-2, 1e-3], max_iterations=100, tolerance=1e-4, device=CPU
    )
    assert all(converged for _, converged in fits)
    classifier = fits[-1][0]
    guesses = classifier.classes[classifier.logits(train.features).argmax(dim=1)]
    assert torch.equal(guesses, train.labels)


def test_too_few_iterations_are_reported() -> None:
    [(_, converged)] = fit_logistic(
        blobs(3), l2s=[1e-3], max_iterations=1, tolerance=1e-6, device=CPU
    )
    assert not converged


def test_the_training_features_are_left_as_they_were() -> None:
    train = blobs(3)
    before = train.features.clone()
    fit_logistic(train, l2s=[1e-2], max_iterations=10, tolerance=1e-3, device=CPU)
    assert torch.equal(train.features, before)


def test_float16_features_work() -> None:
    parts = [blobs(3, seed=s) for s in range(3)]
    halves = [LabelledFeatures(p.features.half(), p.labels) for p in parts]
    options = LinearOptions(l2=(1e-2,))
    a, b = (linear_probe(*three, options=options, device=CPU) for three in (parts, halves))
    assert (predicted(a) == predicted(b)).double().mean() > 0.98
    assert b.test_logits.dtype == torch.float32


def test_bad_input_is_a_data_error() -> None:
    good = blobs(3)
    options = LinearOptions()
    one_class = LabelledFeatures(good.features, torch.ones_like(good.labels))
    with pytest.raises(DataError, match="at least two classes"):
        linear_probe(one_class, one_class, one_class, options=options, device=CPU)
    unseen = LabelledFeatures(good.features, good.labels + 1)
    with pytest.raises(DataError, match=r"Labels \[3\] occur"):
        linear_probe(good, good, unseen, options=options, device=CPU)
    broken = good.features.clone()
    broken[17, 2] = torch.nan
    with pytest.raises(DataError, match="row 17 holds NaN"):
        LabelledFeatures(broken, good.labels)
    with pytest.raises(DataError, match="one label for each of 240"):
        LabelledFeatures(good.features, good.labels[1:])
    with pytest.raises(DataError, match="integer labels"):
        LabelledFeatures(good.features, good.labels.float())
    with pytest.raises(DataError, match="shape"):
        LabelledFeatures(good.features[:0], good.labels[:0])


def test_images_without_a_label_do_not_become_a_class() -> None:
    with pytest.raises(DataError, match="1 image without one"):
        LabelledFeatures(torch.randn(3, 2), torch.tensor([0, -1, 1]))


@pytest.mark.parametrize(
    ("dtype", "scale", "offset"),
    [
        (torch.float32, 1e25, 0.0),
        (torch.float32, 1e-30, 0.0),
        (torch.float32, 1.0, 1e6),
        (torch.float64, 1e200, 0.0),
        (torch.float64, 1e-200, 0.0),
        (torch.float64, 1e-3, 1e9),
        (torch.float64, 1.0, -1e12),
    ],
)
def test_the_probe_does_not_depend_on_scale_and_offset(
    dtype: torch.dtype, scale: float, offset: float
) -> None:
    options = LinearOptions(l2=(1e-2,))
    plain = digits()
    moved = [
        LabelledFeatures(split.features.to(dtype) * scale + offset, split.labels) for split in plain
    ]
    one = linear_probe(*plain, options=options, device=CPU)
    other = linear_probe(*moved, options=options, device=CPU)
    assert other.converged == (True,)
    same = (other.test_logits.argmax(1) == one.test_logits.argmax(1)).float().mean()
    assert same > 0.99  # at 1e6, float32 has one digit left


def test_features_that_vary_by_rounding_alone_are_constant() -> None:
    train = blobs(3)
    noise = 1 + 6e-8 * torch.arange(len(train) * 2).reshape(-1, 2).remainder(2)
    wide = LabelledFeatures(torch.cat([train.features, 1e4 * noise], 1), train.labels)
    [(found, _)] = fit_logistic(wide, l2s=[1e-2], max_iterations=200, tolerance=1e-6, device=CPU)
    assert (found.weight[-2:] == 0).all()
