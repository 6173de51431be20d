"""Random views cut from the photographs, compared with views cut from their original view.

    python -m benchmarks.crops prepare --root DIR --images DIR --teacher FILE [--max-side 512]
    python -m benchmarks.crops run     --root DIR [--epochs 20] [--student resnet18] [--seeds 0 1 2]
    python -m benchmarks.crops table   --root DIR

`prepare` packs a folder with train, validation and test, and extracts oriented gradients and the
features of a teacher (timm's tf_efficientnet_lite0). `run` trains a student at 96 px in the same
budget, self-supervised and distilled, on views of either kind, with each seed, and scores it on the
test images. Every run writes one JSON file; those that are there are not repeated.
"""

import argparse
import json
import multiprocessing
import os
import statistics
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.students import Protocols, call, packed_images, scores, subjects_of
from pipeline.evaluation.knn import KnnOptions
from pipeline.evaluation.linear import LinearOptions
from pipeline.evaluation.retrieval import RetrievalOptions
from pipeline.models.checkpoint import BEST, load_checkpoint
from stages.experiment.paths import dataset_layout

DATASET = "photographs"
WAYS = ("file", "original view")
FIGURES: Protocols = {
    "linear": (LinearOptions(), "top1"),
    "knn": (KnnOptions(), "top1"),
    "retrieval": (RetrievalOptions(), "recall_at_1"),
}
TEACHER = "effnet"
OBJECTIVES: dict[str, dict[str, Any]] = {
    "self-supervised": {
        "invariance": {"weight": 25},
        "variance": {"weight": 12.5},
        "covariance": {"weight": 1},
        "hog": {"kind": "regression", "weight": 50, "loss": "cosine", "on": "h", "view": "both"},
    },
    "distilled": {
        TEACHER: {"kind": "regression", "loss": "cosine", "whiten": 1, "view": "augmented"},
    },
}


def experiment(
    arguments: argparse.Namespace, objective: str, name: str, seed: int
) -> dict[str, Any]:
    """Return the content of an experiment file."""
    given = json.loads((arguments.root / "given.json").read_text())
    return {
        "name": name,
        "seed": seed,
        "dataset": {
            "name": DATASET,
            "source": {"kind": "image_folder", "root": given["images"]},
            "split": {},
            "shards": {"samples": 200, "max_side": given["max_side"], "quality": 85},
            "image": {
                "size": 96,
                "resize": 110,
                "mean": [0.485, 0.456, 0.406],
                "std": [0.229, 0.224, 0.225],
            },
        },
        "features": {
            "hog": {"bins": 24, "cell": 8, "reduce": {"pca": 256}},
            TEACHER: {
                "kind": "timm",
                "model": "tf_efficientnet_lite0",
                "weights": given["teacher"],
            },
        },
        "student": {"architecture": arguments.student, "projector": [1024, 1024, 1024]},
        "objective": OBJECTIVES[objective],
        "train": {
            "epochs": arguments.epochs,
            "batch_size": 128,
            "lr": 1e-3,
            "optimizer": {"name": "adam", "weight_decay": 1e-6},
            "schedule": {"kind": "cosine", "warmup_epochs": 1},
            "augmentation": {"policy": "custom", "min_scale": 0.2},
            "loading": {"mode": "resident", "workers": 2},
            "channels_last": True,
            "precision": "bf16" if torch.cuda.is_available() else "32",
        },
        "evaluate": {"retrieval": {}},
    }


def prepare(arguments: argparse.Namespace) -> None:
    """Pack the photographs and extract the targets."""
    given = {
        "images": str(arguments.images.resolve()),
        "teacher": str(arguments.teacher.resolve()),
        "max_side": arguments.max_side,
    }
    (arguments.root / "given.json").write_text(json.dumps(given))
    content = experiment(arguments, "distilled", "prepare", 0)
    for command in ("shard", "extract-features"):
        call(arguments.root, command, content)


def one(arguments: argparse.Namespace, objective: str, way: str, seed: int) -> None:
    """Train and score once, if that has not been done."""
    name = f"{objective}-{way.replace(' ', '-')}-{arguments.epochs}-{seed}"
    path = arguments.root / "results" / f"{name}.json"
    if path.exists():
        return
    content = experiment(arguments, objective, name, seed)
    before = patch("pipeline.loading.batch_pixels._have_the_views_size", return_value=True)
    # Then the loader cuts boxes of original views.
    with before if way == "original view" else nullcontext():
        call(arguments.root, "train", content)
    path.parent.mkdir(exist_ok=True)
    result = {"objective": objective, "views": way, "seed": seed, "epochs": arguments.epochs}
    trained = load_checkpoint(arguments.root / "runs" / name / "checkpoints" / BEST)
    work = arguments.root / "work" / name
    images = packed_images(dataset_layout(DATASET).shards, trained.image)
    student = subjects_of(trained, images, work)["student"]
    found = scores(student, images, trained, protocols=FIGURES, work=work, seed=seed)
    path.write_text(json.dumps({**result, **found}))


def run(arguments: argparse.Namespace) -> None:
    """Train and score all, in several processes that were forked before they use a GPU."""
    runs = [*product(arguments.seeds, OBJECTIVES, WAYS)]
    if arguments.processes == 1:
        for seed, objective, way in runs:
            with patch.dict(os.environ):
                one(arguments, objective, way, seed)
        return
    context = multiprocessing.get_context("fork")
    workers = [
        context.Process(target=one, args=(arguments, objective, way, seed))
        for seed, objective, way in runs
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def table(arguments: argparse.Namespace) -> Iterator[str]:
    """Yield a table of means and deviations over the seeds, and their paired differences."""
    found = [json.loads(path.read_text()) for path in (arguments.root / "results").glob("*.json")]
    for epochs, objective in sorted({(r["epochs"], r["objective"]) for r in found}):
        own = [r for r in found if (r["epochs"], r["objective"]) == (epochs, objective)]
        yield f"{objective}, {epochs} epochs"
        for protocol in FIGURES:
            by_way = {w: {r["seed"]: r[protocol] for r in own if r["views"] == w} for w in WAYS}
            seeds = sorted(set.intersection(*(set(scores) for scores in by_way.values())))
            lead = [by_way[WAYS[0]][s] - by_way[WAYS[1]][s] for s in seeds]
            means = ", ".join(
                f"{way} {statistics.mean(scores[s] for s in seeds):.1f}"
                for way, scores in by_way.items()
            )
            spread = statistics.stdev(lead) if len(lead) > 1 else float("nan")
            yield (
                f"  {protocol}: {means}; lead {statistics.mean(lead):+.1f} "
                f"(deviation {spread:.1f}, {len(seeds)} seeds)"
            )


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("what", choices=("prepare", "run", "table"))
    parser.add_argument("--root", type=lambda text: Path(text).resolve(), required=True)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--teacher", type=Path)
    parser.add_argument("--max-side", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--student", default="resnet18", help="its architecture")
    parser.add_argument("--processes", type=int, default=1)
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
