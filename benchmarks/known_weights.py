"""A student that starts from known weights, taught by a teacher at a larger size.

    python -m benchmarks.known_weights prepare --root DIR --images DIR --teacher FILE
    python -m benchmarks.known_weights run     --root DIR [--epochs 2] [--seeds 0 1 2]
    python -m benchmarks.known_weights table   --root DIR

Teacher and student are timm's tf_efficientnet_lite0 with the same weights: the teacher sees
photographs at 224 px, the student at 128 px, which costs a third. `prepare` packs a folder with
train, validation and test, and stores the teacher's vectors of original views and of two crops of
each training image. `run` trains the student on random crops with the targets of original views, on
stored crops with their own targets, and untrained from the same start, and scores each on the test
images. Every run writes one JSON file; those that are there are not repeated.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.crops import FIGURES, call, scores_of
from pipeline.base.progress import Silent
from pipeline.models.checkpoint import BEST, Checkpoint, load_checkpoint
from pipeline.training.start import given_checkpoint
from stages.experiment.schema import from_sections

TEACHER = "effnet"
WAYS = ("as it came", "random crops", "stored crops")


def experiment(arguments: argparse.Namespace, name: str, way: str, seed: int) -> dict[str, Any]:
    """Return the content of an experiment file."""
    given = json.loads((arguments.root / "given.json").read_text())
    return {
        "name": name,
        "seed": seed,
        "dataset": {
            "name": "photographs",
            "source": {"kind": "image_folder", "root": given["images"]},
            "split": {},
            "shards": {"samples": 200, "max_side": 512, "quality": 85},
            "image": {"size": 128, "resize": 146, "mean": [0.5] * 3, "std": [0.5] * 3},
            "views": {"count": 2, "min_scale": 0.4},
        },
        "features": {
            TEACHER: {
                "kind": "timm",
                "model": "tf_efficientnet_lite0",
                "weights": given["teacher"],
                "views": True,
            },
        },
        "student": {
            "architecture": "timm:tf_efficientnet_lite0",
            "weights": given["teacher"],
        },
        "objective": {
            TEACHER: {
                "kind": "regression",
                "loss": "cosine",
                "whiten": 1,
                "on": "h",
                "view": "augmented",
            }
        },
        "train": {
            "epochs": arguments.epochs,
            "batch_size": 64,
            "lr": 1e-3,
            "backbone_lr": 0.3,
            "optimizer": {"name": "adamw", "weight_decay": 0.01},
            "schedule": {"kind": "cosine", "warmup_epochs": 0.2},
            "augmentation": {"policy": "custom", "min_scale": 0.4},
            "loading": {"mode": "resident", "workers": 1},
            "channels_last": True,
            "select": "objective",
            "validate_on": "original",
            "stored_views": way == "stored crops",
        },
        "evaluate": {"retrieval": {}},
    }


def prepare(arguments: argparse.Namespace) -> None:
    """Pack the photographs and extract the targets."""
    given = {"images": str(arguments.images.resolve()), "teacher": str(arguments.teacher.resolve())}
    (arguments.root / "given.json").write_text(json.dumps(given))
    content = experiment(arguments, "prepare", WAYS[-1], 0)
    for command in (["shard"], ["extract-features"]):
        call(arguments, command, content)


def one(arguments: argparse.Namespace, way: str, seed: int) -> None:
    """Train and score once, if that has not been done."""
    name = f"{way.replace(' ', '-')}-{arguments.epochs}-{seed}"
    path = arguments.root / "known" / f"{name}.json"
    if path.exists():
        return
    content = experiment(arguments, name, way, seed)
    if way == "as it came":
        trained = start(content)
    else:
        call(arguments, ["train"], content)
        trained = load_checkpoint(arguments.root / "runs" / name / "checkpoints" / BEST)
    path.parent.mkdir(exist_ok=True)
    found = scores_of(arguments.root, trained, name, seed)
    path.write_text(json.dumps({"way": way, "seed": seed, "epochs": arguments.epochs, **found}))


def start(content: dict[str, Any]) -> Checkpoint:
    """Return the student before any training."""
    read = from_sections(content)
    weights = Path(str(read.student.weights))
    return given_checkpoint(read.student, read.dataset.image, weights, progress=Silent())


def run(arguments: argparse.Namespace) -> None:
    """Train and score all."""
    one(arguments, WAYS[0], 0)
    for seed in arguments.seeds:
        for way in WAYS[1:]:
            one(arguments, way, seed)


def table(arguments: argparse.Namespace) -> Iterator[str]:
    """Yield a table of means and deviations over the seeds."""
    found = [json.loads(path.read_text()) for path in (arguments.root / "known").glob("*.json")]
    for way in WAYS:
        own = [result for result in found if result["way"] == way]
        if own:
            figures = ", ".join(f"{p} {_spread([r[p] for r in own])}" for p in FIGURES)
            yield f"{way}: {figures} ({len(own)} seeds)"


def _spread(values: list[float]) -> str:
    deviation = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
    return f"{mean(values):.1f}{deviation}"


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("what", choices=("prepare", "run", "table"))
    parser.add_argument("--root", type=lambda text: Path(text).resolve(), required=True)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--teacher", type=Path)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    arguments.root.mkdir(parents=True, exist_ok=True)
    if arguments.what == "prepare":
        prepare(arguments)
    elif arguments.what == "run":
        run(arguments)
    else:
        print("\n".join(table(arguments)))


if __name__ == "__main__":
    main()
