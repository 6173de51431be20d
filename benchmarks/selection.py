"""Which rule for the epoch that is kept has the least regret, in training without labels.

    python -m benchmarks.selection run --root DIR --images DIR --teacher FILE [--steps 400]
    python -m benchmarks.selection table

Trains `vicreg + hog regressed, 50, rate 4e-3` of the study's photographs at 64 px, with the weights
as they are and with their average (`ema`), and scores the encoder of every epoch on test images.
The regret of a rule is what its epoch lacks of the best epoch's accuracy in both trainings of a
seed, in points: with any rule, 0 is the least. Rules see validation images, as `train.select` does.

Each training is one file in `--results`; those that are there are not repeated. `--root` may be
that of the study, whose packed images and features are used then.
"""

import argparse
import csv
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any
from unittest.mock import patch

from benchmarks.students import Protocols, call, packed_images, scores, subjects_of
from benchmarks.study.candidates import GRADIENTS
from benchmarks.study.runs import Study
from benchmarks.study.setups import FAST, PHOTOGRAPHS_64
from benchmarks.study.tables import lead
from pipeline.base.atomic import write_json
from pipeline.evaluation.knn import KnnOptions
from pipeline.evaluation.linear import LinearOptions
from pipeline.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from pipeline.training.callbacks import FOLLOWED
from stages.experiment.paths import dataset_layout, run_layout

FOLDER = Path(__file__).parent / "selection_results"
OBJECTIVE = f"{GRADIENTS}, rate {FAST}"
SEEDS = (0, 1, 2, 3, 4)
AVERAGES: Mapping[str, float | None] = {"weights": None, "average": 0.99}
FIGURES: Protocols = {"linear": (LinearOptions(), "top1"), "knn": (KnnOptions(), "top1")}
Epoch = Mapping[str, float]


def keep_all(folder: Path, path: Path, checkpoint: Checkpoint) -> None:
    """Save a checkpoint where training wants it, and in a folder under the number of its epoch."""
    save_checkpoint(path, checkpoint)
    save_checkpoint(folder / f"epoch-{checkpoint.about['selection']['epoch']}.pt", checkpoint)


def one(study: Study, steps: int, seed: int, weights: str, path: Path) -> None:
    """Train, score all epochs, and write their curves and scores."""
    name = f"selection-{steps}-{weights}-{seed}"
    content = study.experiment(name, OBJECTIVE, epochs=study.epochs(steps), seed=seed)
    content["train"] = {**content["train"], "ema": AVERAGES[weights], "select": "last"}
    layout = run_layout(name)
    folder = study.root / "selection" / name
    folder.mkdir(parents=True, exist_ok=True)
    with patch("pipeline.training.fit.save_checkpoint", partial(keep_all, folder)):
        call(study.root, "train", content)
    with layout.curves.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    epochs = []
    for row in rows:
        curves = {rule: float(row[curve]) for rule, (curve, _) in FOLLOWED.items()}
        epochs.append({**curves, **_scored(folder, int(row["epoch"]), seed)})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"steps": steps, "seed": seed, "weights": weights, "epochs": epochs})
    shutil.rmtree(folder)


def _scored(folder: Path, epoch: int, seed: int) -> dict[str, float]:
    trained = load_checkpoint(folder / f"epoch-{epoch}.pt")
    images = packed_images(dataset_layout(PHOTOGRAPHS_64.dataset["name"]).shards, trained.image)
    student = subjects_of(trained, images, folder)["student"]
    found = scores(student, images, trained, protocols=FIGURES, work=folder, seed=seed)
    return {f"test {name}": round(value, 4) for name, value in found.items()}


def chosen(epochs: Sequence[Epoch], rule: str) -> Epoch:
    """Return the epoch that a rule keeps."""
    if rule == "last":
        return epochs[-1]
    sign = FOLLOWED[rule][1]
    return max(epochs, key=lambda epoch: sign * epoch[rule])


def table(folder: Path) -> Iterator[str]:
    """Yield a Markdown table of regrets, means over the seeds with their intervals."""
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for path in sorted(folder.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        found.setdefault((result["steps"], result["seed"]), {})[result["weights"]] = result[
            "epochs"
        ]
    trained = [own for own in found.values() if own.keys() == AVERAGES.keys()]
    yield f"| weights | rule | {' | '.join(f'{f}, regret' for f in FIGURES)} | of both |"
    yield "|---" * (3 + len(FIGURES)) + "|"
    for weights in AVERAGES:
        for rule in (*FOLLOWED, "last"):
            cells = [_regrets(trained, weights, rule, [f"test {figure}"]) for figure in FIGURES]
            both = _regrets(trained, weights, rule, [f"test {figure}" for figure in FIGURES])
            yield f"| {weights} | {rule} | {' | '.join(cells)} | {both} |"


def _regrets(
    trained: Sequence[Mapping[str, Sequence[Epoch]]],
    weights: str,
    rule: str,
    figures: Sequence[str],
) -> str:
    """Return the mean regret from the best epoch of all trainings of a seed, and its interval."""

    def score(epoch: Epoch) -> float:
        return mean(epoch[figure] for figure in figures)

    return lead(
        [
            max(score(epoch) for epochs in own.values() for epoch in epochs)
            - score(chosen(own[weights], rule))
            for own in trained
        ]
    )


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--root", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--teacher", type=Path)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--results", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    if arguments.what == "table":
        print("\n".join(table(arguments.results)))
        return
    results = arguments.results.resolve()
    study = Study(
        PHOTOGRAPHS_64,
        root=arguments.root,
        results=results,
        images=arguments.images,
        teacher=arguments.teacher,
    )
    study.prepare([OBJECTIVE])
    for seed in arguments.seeds:
        for weights in AVERAGES:
            path = results / f"{arguments.steps}-{weights}-{seed}.json"
            if not path.exists():
                one(study, arguments.steps, seed, weights, path)
                print(path.name, flush=True)


if __name__ == "__main__":
    main()
