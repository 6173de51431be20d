"""The worked examples of `docs/extending` run in a copy of the code; all Python of pages runs."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_layers
import torch
from pages import ROOT, Page, page, pages
from PIL import Image
from ruamel.yaml import YAML
from sklearn.datasets import load_digits
from torchvision.models import ResNet18_Weights, resnet18

from pipeline.features.store import FeatureStore
from pipeline.images.decoding import decode
from pipeline.models.ready_encoder import load_encoder
from pipeline.shards.listing import read_names
from pipeline.shards.manifest import read_manifests
from pipeline.shards.reading import read_shard

EXAMPLES = [
    page(f"docs/extending/{n}.md") for n in ("source", "representation", "teacher", "protocol")
]
FROM_PYTHON = "docs/from-python.md"
SPLITS = ("train", "validation", "test")
SIDE = 32  # of the teacher's images; at 224 it would take minutes
LINES = 40
# Changes that the pages leave to the reader: a quick student, fewer features and protocols.
QUICK: dict[str, Any] = {
    "features": {"scattering": {"J": 2, "L": 8, "reduce": {"pca": 16}}},
    "student": {"architecture": "resnet8", "projector": [16]},
    "objective": {"invariance": {}, "variance": {}},
    "train": {"epochs": 1, "batch_size": 128, "lr": 1e-3},
    "evaluate": {"online": {}},
}
DRIVER = """
import shlex, sys
from stages.terminal.cli import run
for line in sys.stdin:
    assert run(shlex.split(line)) == 0, line
"""
# Blocks that need a library that is not installed are only compiled, and their names printed.
BLOCKS = """
import ast, importlib.util, json, sys
for name, text in json.load(sys.stdin):
    tree = ast.parse(text, name)
    modules = [node.module for node in tree.body if isinstance(node, ast.ImportFrom)]
    if all(importlib.util.find_spec(module.partition(".")[0]) for module in modules):
        exec(compile(tree, name, "exec"), {})
    else:
        print(name)
"""


def example(page: Page) -> tuple[str, str]:
    """Return the path and the content of the file that a page adds."""
    ((path, text),) = [
        (match[1], block.text)
        for block in page.blocks("python")
        if (match := re.fullmatch(r"`(pipeline/[\w/]+\.py)`:", block.before))
    ]
    return path, text


def with_row(table: str, diff: str) -> str:
    """Return a table with the added lines of a diff inserted after those that precede them."""
    lines, place = table.splitlines(), 0
    for line in diff.splitlines():
        if line.startswith("+"):
            lines.insert(place, line[1:])
            place += 1
        else:
            place = lines.index(line[1:], place) + 1
    return "\n".join([*lines, ""])


def merged(base: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    both = {
        key: merged(base[key], value)
        for key, value in other.items()
        if isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
    }
    return {**base, **other, **both}


def python(tree: Path, *arguments: str, **options: Any) -> str:
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    done: subprocess.CompletedProcess[str] = subprocess.run(
        [sys.executable, *arguments],
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
        **options,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the code with every example added as its page says."""
    root = tmp_path_factory.mktemp("tree")
    for name in ("mvmr", "pipeline", "stages"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)
    for added in EXAMPLES:
        path, text = example(added)
        (root / path).write_text(text)
        for block in added.blocks("diff"):
            (name,) = re.findall(r"`(pipeline/\w+/(?:sources|kinds|protocols)\.py)`", block.before)
            table = root / name
            table.write_text(with_row(table.read_text(), block.text))
    return root


@pytest.fixture(scope="module")
def project(tree: Path) -> Path:
    """Return that copy after an experiment with all four, run by the commands of the pages."""
    experiment = YAML(typ="safe", pure=True).load(ROOT / "configs/digits.yaml") | QUICK
    commands = []
    for added in EXAMPLES:
        for block in added.blocks("yaml"):
            experiment = merged(experiment, YAML(typ="safe", pure=True).load(block.text))
        for block in added.blocks("python"):
            if block.text != example(added)[1]:
                python(tree, "-c", block.text)
        commands += [c for block in added.blocks("console") for c in block.text.splitlines()]
    experiment["features"]["resnet"]["size"] = SIDE
    weights = Path(tree, experiment["features"]["resnet"]["weights"])
    torch.manual_seed(0)
    torch.save(resnet18().state_dict(), weights)
    with (tree / "params.yaml").open("w") as file:
        YAML().dump(experiment, file)
    before = ["mvmr shard", "mvmr extract-features --workers 1", "mvmr train"]
    lines = [command.removeprefix("mvmr ") for command in [*before, *commands]]
    python(tree, "-c", DRIVER, input="\n".join(lines))
    return tree


def stored_images(project: Path) -> Iterator[tuple[str, Image.Image]]:
    """Yield name and image of every sample of the training split, in order."""
    directory = project / "data/arrays/shards"
    manifest = read_manifests(directory)["train"]
    names = iter(read_names(directory / "train", manifest))
    for number in range(len(manifest.shards)):
        for record in read_shard(directory / "train", manifest, number):
            yield next(names), decode(record.data)


@pytest.mark.parametrize("added", EXAMPLES, ids=lambda added: added.path.stem)
def test_an_example_is_one_short_file_and_one_row(added: Page) -> None:
    _, text = example(added)
    assert len(text.splitlines()) < LINES
    (block,) = added.blocks("diff")
    rows = [line for line in block.text.splitlines() if line.startswith("+")]
    assert [row.startswith("+from ") for row in rows] == [True, False]


def test_examples_pass_the_checks_of_the_project(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python(tree, "-m", "ruff", "check", "--quiet", "--no-cache", "pipeline")
    python(tree, "-m", "ruff", "format", "--check", "--quiet", "--no-cache", "pipeline")
    monkeypatch.setattr(test_layers, "ROOT", tree)
    test_layers.test_packages_import_only_from_those_before_them()
    test_layers.test_neither_modules_nor_packages_form_a_circle()


def test_the_source_gives_the_arrays(project: Path) -> None:
    scans = np.rint(load_digits().images * 255 / 16)
    found = dict(stored_images(project))
    assert len(found) == 1259
    for name, image in found.items():
        np.testing.assert_array_equal(np.asarray(image), scans[int(name)])


def test_the_representation_is_the_mean_of_each_cell(project: Path) -> None:
    stored = FeatureStore(project / "data/arrays/features.zarr")["thumbnail"].read("train")
    pixels = np.stack([np.asarray(image) for _, image in stored_images(project)]) / 255
    normalised = (pixels - 0.305) / 0.376
    cells = normalised.reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4)).reshape(-1, 16)
    np.testing.assert_allclose(stored, cells, atol=1e-5)


def test_the_teacher_is_the_network_applied_by_hand(project: Path) -> None:
    torch.manual_seed(0)
    network = resnet18().eval()
    network.fc = torch.nn.Identity()
    prepare = ResNet18_Weights.IMAGENET1K_V1.transforms(crop_size=SIDE, resize_size=36)
    images = [image for _, image in stored_images(project)][:20]
    with torch.no_grad():
        expected = network(torch.stack([prepare(image.convert("RGB")) for image in images]))
    stored = FeatureStore(project / "data/arrays/features.zarr")["resnet"].read("train", 0, 20)
    np.testing.assert_allclose(stored, expected.numpy(), rtol=2e-3, atol=2e-3)


def test_the_protocol_finds_the_nearest_mean(project: Path) -> None:
    record = json.loads((project / "runs/digits/metrics/centroid.json").read_text())
    assert set(record["controls"]) == {"untrained", "pixels", "scattering", "thumbnail", "resnet"}
    digits = load_digits()
    directory = project / "data/arrays/shards"
    rows = {
        split: [int(name) for name in read_names(directory / split, manifest)]
        for split, manifest in read_manifests(directory).items()
    }
    train, test = ((digits.data[rows[s]], digits.target[rows[s]]) for s in ("train", "test"))
    means = np.stack([train[0][train[1] == digit].mean(axis=0) for digit in range(10)])
    nearest = np.linalg.norm(test[0][:, None] - means, axis=2).argmin(axis=1)
    expected = 100 * (nearest == test[1]).mean()
    assert record["controls"]["pixels"]["top1"] == pytest.approx(expected)


def test_the_python_of_every_page_runs(project: Path) -> None:
    (project / "data/digits").symlink_to("arrays")  # the same images
    for name in ("photos", "robust_digits"):
        (project / "runs" / name).symlink_to("digits")
    for name in ("scan.png", "photo.jpg"):
        Image.fromarray(np.arange(120, dtype=np.uint8).reshape(10, 12)).save(project / name)
    module, preprocessing = load_encoder(project / "runs/photos/checkpoints/best.pt")
    embedded = module(preprocessing(project / "photo.jpg")[None]).detach().numpy()
    np.savez(project / "runs/photos.npz", names=["photo.jpg"], embeddings=embedded)
    files = {example(added)[1] for added in EXAMPLES}
    others = [found for found in pages() if found.name != FROM_PYTHON]  # has a test of its own
    every = [(found.name, block.text) for found in others for block in found.blocks("python")]
    blocks = [(name, text) for name, text in every if text not in files]
    assert len(blocks) >= 7
    left_out = python(project, "-c", BLOCKS, input=json.dumps(blocks)).splitlines()
    assert left_out == ["docs/scaling.md"] * 2  # SLURM's and Kubernetes' clusters
