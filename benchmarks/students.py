"""Shared by the benchmarks that train students: run an experiment's commands, score its student."""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.base.devices import device_from
from pipeline.base.locations import Location
from pipeline.base.progress import Silent
from pipeline.datasets.source import Split
from pipeline.evaluation.image_set import Images
from pipeline.evaluation.protocol import Setting
from pipeline.evaluation.subjects import Subject, image_subjects
from pipeline.images.original_view import ImageOptions
from pipeline.loading.batch import SplitData
from pipeline.models.checkpoint import Checkpoint
from pipeline.shards.manifest import read_manifests
from stages.terminal.cli import run as mvmr

# The options of a protocol, and the figure of its outcome that is kept.
Protocols = Mapping[str, tuple[Any, str]]


def call(root: Path, command: str, content: Mapping[str, Any]) -> None:
    """Run a command of mvmr on an experiment in the folder `root`, the working one from then on.

    Raises SystemExit if the command fails or is interrupted; the same call continues it.
    """
    os.chdir(root)
    code = mvmr([command, "--quiet", "--config", str(written(root, content))])
    if code:
        raise SystemExit(code)


def written(root: Path, content: Mapping[str, Any]) -> Path:
    """Write the file of an experiment in the folder `root`, and return its path."""
    config = root / "configs" / f"{content['name']}.yaml"
    config.parent.mkdir(exist_ok=True)
    plain = json.loads(json.dumps(content))  # without YAML anchors for shared parts
    with config.open("w", encoding="utf-8") as file:
        YAML().dump(plain, file)
    return config


def packed_images(shards: Location, image: ImageOptions) -> Images:
    """Return the images of all splits, as the student sees them."""
    return Images(
        {
            split: SplitData(shards / split, manifest, {}, image)
            for split, manifest in read_manifests(shards).items()
        }
    )


def subjects_of(
    trained: Checkpoint, images: Images, work: Path, name: str = "student"
) -> Mapping[str, Subject]:
    """Return a checkpoint's encoder under a name, and `pixels`; `work` caches their features."""
    return image_subjects(
        {name: trained.build()},
        images,
        device=device_from("auto"),
        cache=work,
        progress=Silent(),
    )


def scores(
    subject: Subject,
    images: Images,
    trained: Checkpoint,
    *,
    split: Split = "test",
    protocols: Protocols,
    work: Path,
    seed: int,
) -> dict[str, float]:
    """Return the figure of each protocol on the images of `split`, in percent.

    No test image is read to score validation images; what is chosen is then chosen by the images
    that are scored.
    """
    placed = Images({**images.splits, "test": images.splits[split]})
    setting = Setting(
        images=placed,
        references={},
        specifications={},
        checkpoint=trained,
        device=device_from("auto"),
        seed=seed,
        work=work,
        progress=Silent(),
    )
    scored = replace(subject, of=lambda own: subject.of(split if own == "test" else own))
    return {
        name: float(options.score(scored, setting).values[figure])
        for name, (options, figure) in protocols.items()
    }
