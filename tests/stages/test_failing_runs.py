"""Ten runs that fail in different ways: what the report proposes is right, and mostly helps."""

import io
import json
import os
import shlex
from contextlib import redirect_stdout
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from digits_run import ROOT
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier
from torch import nn

from stages.terminal.cli import run

pytestmark = pytest.mark.slow

CONFIG = ["-c", str(ROOT / "configs/digits.yaml")]
MEAN, STD = 0.305, 0.376
BASE = {
    "student": "{architecture: resnet8, projector: [64, 64]}",
    "features": "{hog: {cell: 4}, local_std: {}}",
    "objective": "{hog: {kind: regression, loss: cosine, on: h, whiten: 1}}",
    "train": "{epochs: 12, batch_size: 64, lr: 1e-3, schedule: {kind: cosine}, augmentation: "
    "{policy: custom, min_scale: 0.5, flip_p: 0}}",
    "evaluate": "{linear: {}, knn: {}}",
}
TEACHER = "{kind: exported, program: teacher.pt2, input_size: 8, trust: true, mean: %s, std: %s}"
VIEWS = "invariance: {weight: 25}"
# The overrides of each run, and what its first proposal must change. The last three were made
# without regard to the rules.
FAILING: dict[str, tuple[dict[str, str], str]] = {
    "too_few_steps": ({"train.epochs": "2"}, "train.epochs"),
    "collapsed": ({"objective": f"{{{VIEWS}}}"}, "objective.variance"),
    "rate_too_high": ({"train.lr": "0.2", "train.epochs": "6"}, "train.lr"),
    "rate_too_low": ({"train.lr": "2e-6"}, "train.lr"),
    "teachers_images": (
        {
            "features": f"{{teacher: {TEACHER % ('[-40]', '[0.01]')}}}",
            "objective": "{teacher: {kind: regression, loss: cosine, on: h, whiten: 1}}",
        },
        "features.teacher.mean",
    ),
    "labels_shuffled": (
        {
            "dataset.name": "shuffled",
            "dataset.source": "{kind: image_folder, root: shuffled}",
        },
        "shard --force",
    ),
    "tiny_validation": (
        {"dataset.name": "tiny", "dataset.split.validation": "0.015", "train.lr": "3e-3"},
        "train",
    ),
    "batch_too_large": ({"train.batch_size": "1024"}, "train.epochs"),
    "crops_too_small": ({"train.augmentation.min_scale": "0.03", "train.epochs": "4"}, "train"),
    "sgd_with_adams_rate": ({"train.optimizer": "{name: sgd}"}, "train.lr"),
}


def save_teacher(path: Path) -> None:
    """Export a network that has learnt digits, from images normalised by MEAN and STD."""
    digits = load_digits()
    pixels = (np.rint(digits.data * 255 / 16) / 255 - MEAN) / STD
    learnt = MLPClassifier((32,), tol=1e-3, max_iter=1000, random_state=0).fit(
        pixels[:1200], digits.target[:1200]
    )
    layer = nn.Linear(64, 32)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(learnt.coefs_[0].T))
        layer.bias.copy_(torch.tensor(learnt.intercepts_[0]))
    network = nn.Sequential(nn.Flatten(), layer, nn.ReLU()).eval()
    batch = ({0: torch.export.Dim("batch")},)
    torch.export.save(
        torch.export.export(network, (torch.rand(4, 1, 8, 8),), dynamic_shapes=batch), path
    )


def save_shuffled(root: Path) -> None:
    """Save digits in folders of random classes."""
    digits, random = load_digits(), np.random.default_rng(0)
    for number, image in enumerate(digits.images):
        path = root / str(random.integers(10)) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.rint(image * 255 / 16).astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, float, float]]:
    """Return, of each run, its first proposal and its scores before and after following it."""
    root, before = tmp_path_factory.mktemp("failing"), Path.cwd()
    os.chdir(root)
    try:
        save_teacher(root / "teacher.pt2")
        save_shuffled(root / "shuffled")
        return {name: follow(name, overrides) for name, (overrides, _) in FAILING.items()}
    finally:
        os.chdir(before)


def follow(name: str, overrides: dict[str, str]) -> tuple[str, float, float]:
    """Make a run, follow its first proposal, and return it with the scores before and after."""
    first = {**BASE, **overrides, "name": name}
    prepared(first)
    proposed, before = scored(name, first)
    words = shlex.split(proposed)
    assert words[0] == "mvmr"
    second = dict(word.split("=", 1) for last, word in pairwise(words) if last == "-s") or first
    assert run([*words[1:], *CONFIG]) == 0
    prepared(second)
    _, after = scored(name, second)
    return proposed, before, after


def prepared(overrides: dict[str, str]) -> None:
    for command in (["shard"], ["extract-features", "--workers", "1"]):
        assert run([*command, *options_of(overrides)]) == 0


def scored(name: str, overrides: dict[str, str]) -> tuple[str, float]:
    """Train, evaluate and report; return the first proposal and the mean of both scores."""
    for command in ("train", "evaluate"):
        assert run([command, *options_of(overrides)]) == 0, command
    with redirect_stdout(io.StringIO()) as told:
        assert run(["report", "--json", *options_of(overrides)]) == 0
    proposals = json.loads(told.getvalue())["proposals"]
    records = [Path(f"runs/{name}/metrics/{protocol}.json") for protocol in ("linear", "knn")]
    scores = [json.loads(path.read_text())["top1"] for path in records]
    return proposals[0]["command"] if proposals else "", sum(scores) / 2


def options_of(overrides: dict[str, str]) -> list[str]:
    return [*CONFIG, *(w for key, value in overrides.items() for w in ("-s", f"{key}={value}"))]


@pytest.mark.parametrize("name", FAILING)
def test_the_first_proposal_is_about_what_is_wrong(
    failing: dict[str, tuple[str, float, float]], name: str
) -> None:
    proposed, _, _ = failing[name]
    # What the run itself was given comes first.
    changed = proposed.replace(
        shlex.join(options_of({**BASE, **FAILING[name][0], "name": name})[2:]), ""
    )
    assert FAILING[name][1] in changed


def test_following_it_improves_seven_of_ten(
    failing: dict[str, tuple[str, float, float]],
) -> None:
    better = [name for name, (_, before, after) in failing.items() if after > before]
    assert len(better) >= 7, failing
