"""How a run of the plan is done: its training, its scores, its file of results."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.students import Protocols, call, packed_images, scores, subjects_of
from benchmarks.study.halving import CONTROL_RUNG, Run, plan
from benchmarks.study.records import curve, identifier, read, write
from benchmarks.study.setups import BEFORE, Setup, filled
from pipeline.base.progress import Silent
from pipeline.evaluation.image_set import Images
from pipeline.evaluation.knn import KnnOptions
from pipeline.evaluation.linear import LinearOptions
from pipeline.evaluation.retrieval import RetrievalOptions
from pipeline.evaluation.subjects import Subject, stored_subject
from pipeline.features.store import FeatureStore
from pipeline.models.checkpoint import BEST, Checkpoint, load_checkpoint
from pipeline.shards.manifest import read_manifests
from pipeline.training.start import given_checkpoint
from stages.experiment.paths import dataset_layout, run_layout
from stages.experiment.schema import Experiment, from_sections
from stages.terminal.interruption import has_ended_a_command

GEOMETRIES = (None, 0.5, 1.0)
PROTOCOLS: Protocols = {
    "linear": (LinearOptions(), "top1"),
    "knn": (KnnOptions(), "top1"),
    "knn_whitened": (KnnOptions(whiten=GEOMETRIES), "top1"),
    "recall": (RetrievalOptions(whiten=GEOMETRIES), "recall_at_1"),
}


class Study:
    """One setup: packed images, features and runs below `root`, results in the folder `results`.

    `root` can be lost, at the cost of computing what is unfinished again. Results are one small
    file for each run of the plan, and are never computed again.
    """

    def __init__(
        self, setup: Setup, *, root: Path, results: Path, images: Path, teacher: Path
    ) -> None:
        self.setup = setup
        self.root = root.resolve()
        self.folder = results.resolve() / setup.name
        self._paths = {"images": str(images.resolve()), "teacher": str(teacher.resolve())}
        self._data = dataset_layout(setup.dataset["name"])

    def prepare(self, names: Sequence[str]) -> None:
        """Make shards and the features of these candidates, once."""
        self.root.mkdir(parents=True, exist_ok=True)
        os.chdir(self.root)
        wanted = {k: v for name in names for k, v in self.setup.shared_features_of(name).items()}
        content = self.experiment("prepare", names[0], epochs=1, seed=0)
        for command in ("shard", "extract-features"):
            call(self.root, command, {**content, "features": filled(wanted, self._paths)})

    def go_on(self, only: Sequence[str], seeds: Sequence[int], most_steps: int | None) -> None:
        """Do what is wanted and not done, one run after the other.

        `only` names candidates, all if it is empty; `most_steps` leaves out longer trainings.
        Raises SystemExit if it is interrupted, and in the end if runs have failed.
        """

        def is_meant(run: Run) -> bool:
            return run.name in (only or [run.name]) and run.rung <= (most_steps or run.rung)

        work_off(lambda: filter(is_meant, self._left(seeds)), self.do)

    def _left(self, seeds: Sequence[int]) -> Iterator[Run]:
        results = read(self.setup, self.folder)
        return (run for run in plan(self.setup, seeds, results) if run not in results)

    def do(self, run: Run) -> None:
        """Train what a run needs, or continue its training, and write its scores."""
        found = self._control(run) if run.rung == CONTROL_RUNG else self._trained(run)
        write(self.folder, run, {**found, "torch": str(torch.__version__)})
        figures = "  ".join(f"{name} {value:.1f}" for name, value in found["scores"].items())
        print(f"{run.split} {run.rung:>6}  {figures}  {run.name}, seed {run.seed}", flush=True)

    def curves(self, run: Run) -> Path:
        """Return the curves of a finished training."""
        return run_layout(self._experiment_of(run)).curves

    @property
    def steps_an_epoch(self) -> int:
        """The number of whole batches of the training images."""
        train = read_manifests(self._data.shards)["train"]
        valid = train.samples - len(train.invalid)
        return int(valid // self.setup.train["batch_size"])

    def _experiment_of(self, run: Run) -> str:
        return f"{self.setup.name}-{run.rung}-{identifier(run.name)}-{run.seed}"

    def _trained(self, run: Run) -> dict[str, Any]:
        name = self._experiment_of(run)
        content = self.experiment(name, run.name, epochs=self.epochs(run.rung), seed=run.seed)
        call(self.root, "train", content)
        trained = load_checkpoint(run_layout(name).checkpoints / BEST)
        images = packed_images(self._data.shards, trained.image)
        subject = subjects_of(trained, images, self._work, name)[name]
        found = {
            "recipe": self.setup.recipe(run.name),
            "selection": trained.about["selection"],
            "scores": self._scores(run, subject, images, trained),
            "curve": curve(self.curves(run)),
        }
        for features in self._work.glob(f"{name}-*"):
            features.unlink()
        return found

    def _control(self, run: Run) -> dict[str, Any]:
        content = self.experiment("control", next(iter(self.setup.candidates)), epochs=1, seed=0)
        start = before_training(from_sections(content))
        images = packed_images(self._data.shards, start.image)
        subject = self._untrained(run.name, start, images)
        return {"scores": self._scores(run, subject, images, start)}

    def _untrained(self, name: str, start: Checkpoint, images: Images) -> Subject:
        if name in self.setup.features:
            return stored_subject(FeatureStore(self._data.features)[name], images)
        return subjects_of(start, images, self._work, identifier(BEFORE))[identifier(name)]

    def epochs(self, steps: int) -> int:
        """Return the whole epochs nearest to a number of steps."""
        return max(1, round(steps / self.steps_an_epoch))

    @property
    def _work(self) -> Path:
        """Where features of images are kept while they are scored."""
        return self.root / "work" / self.setup.name

    def _scores(
        self, run: Run, subject: Subject, images: Images, trained: Checkpoint
    ) -> dict[str, float]:
        return scores(
            subject,
            images,
            trained,
            split=run.split,
            protocols=PROTOCOLS,
            work=self._work,
            seed=run.seed,
        )

    def experiment(self, run: str, name: str, *, epochs: int, seed: int) -> dict[str, Any]:
        """Return the content of an experiment file for a candidate."""
        content = self.setup.experiment(run, name, epochs=epochs, seed=seed)
        experiment: dict[str, Any] = filled(content, self._paths)
        return experiment


def before_training(experiment: Experiment) -> Checkpoint:
    """Return the student that training starts from: untrained, or with the weights of a file."""
    weights = Path(experiment.student.weights) if experiment.student.weights else None
    image = experiment.dataset.image
    return given_checkpoint(experiment.student, image, weights, progress=Silent())


def work_off(left: Callable[[], Iterable[Run]], do: Callable[[Run], None]) -> None:
    """Do the first of the runs that are left, again and again; one that fails holds up no other.

    Raises SystemExit if it is interrupted, and in the end if runs have failed.
    """
    failed: list[Run] = []
    while (run := next((run for run in left() if run not in failed), None)) is not None:
        try:
            do(run)
        except SystemExit as error:
            if has_ended_a_command():
                raise
            if isinstance(error.code, str):  # a command of mvmr has said why
                print(error.code, file=sys.stderr, flush=True)
            failed.append(run)
    if failed:
        told = "; ".join(f"{run.name}, {run.rung} steps, seed {run.seed}" for run in failed)
        raise SystemExit(f"Not done: {told}. The same command tries again.")
