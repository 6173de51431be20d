"""How a run is done: its training in a process of its own, its scores, its file of results."""

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.crops import FIGURES
from benchmarks.peers.order import plan
from benchmarks.peers.ways import (
    BATCH_SIZE,
    DATASET,
    OUR_WAYS,
    PEERS,
    START,
    STUDENT_MODEL,
    STUDENT_SIZE,
    TEACHER,
    TEACHER_MODEL,
    PeerWay,
    experiment,
    recipe,
)
from benchmarks.students import call, packed_images, scores, subjects_of, written
from benchmarks.study.halving import Run, merit
from benchmarks.study.records import DIGITS, identifier, results_in, write
from benchmarks.study.runs import before_training, work_off
from benchmarks.study.setups import filled
from benchmarks.timing import Cost, cost_of_process
from pipeline.datasets.source import Split
from pipeline.evaluation.image_set import Images
from pipeline.evaluation.subjects import Subject, stored_subject
from pipeline.features.store import FeatureStore
from pipeline.models.checkpoint import BEST, Checkpoint, load_checkpoint
from pipeline.shards.manifest import read_manifests
from stages.experiment.paths import RUNS, dataset_layout, run_layout
from stages.experiment.schema import from_sections

MVMR = (sys.executable, "-c", "from stages.terminal.cli import main; main()")
PREPARATION = ("shard", "extract-features")
PEER_PROCESS = Path(__file__).with_name("lightly_process.py")
PEER_ENVIRONMENT = {"LIGHTLY_TRAIN_EVENTS_DISABLED": "1", "HF_HUB_OFFLINE": "1"}
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


@dataclass(frozen=True)
class Given:
    """What the command line names: photographs, both networks' weights, the peer's Python."""

    images: Path
    student: Path
    teacher: Path
    peer_python: Path


class Comparison:
    """Packed images, features and trainings below `root`, results in the folder `results`.

    `root` can be lost, at the cost of computing what is unfinished again. Results are one small
    file for each run, and are never computed again. A training that was interrupted starts anew,
    since its time is measured.
    """

    def __init__(self, given: Given, *, root: Path, results: Path) -> None:
        self._images = given.images.resolve()
        # Not resolved: an environment's Python is a link to one outside.
        self._peer_python = given.peer_python.absolute()
        self._root, self._results = root.resolve(), results.resolve()
        paths = {"images": given.images, "student": given.student, "teacher": given.teacher}
        self._paths = {name: str(path.resolve()) for name, path in paths.items()}
        self._data = dataset_layout(DATASET["name"])
        self._environment = {**os.environ, **ONE_THREAD}

    def go_on(self, only: Sequence[str], budgets: Sequence[int], seeds: Sequence[int]) -> None:
        """Do what is wanted and not done, one run after the other.

        `only` names ways and controls, all if it is empty. Raises SystemExit in the end if runs
        have failed.
        """
        self._root.mkdir(parents=True, exist_ok=True)
        os.chdir(self._root)

        def left() -> Iterator[Run]:
            results = results_in(self._results, recipe)
            for run in plan(budgets, seeds, results):
                if run not in results and run.name in (only or [run.name]):
                    yield run

        work_off(left, self.do)

    def do(self, run: Run) -> None:
        """Train what a run needs, and write its scores."""
        if run.name == TEACHER:
            found = self._teacher()
        else:
            self._prepare()
            found = self._start() if run.name == START else self._student(run)
        known = {"torch": str(torch.__version__), "cores": len(os.sched_getaffinity(0))}
        write(self._results, run, {**known, **found})
        figures = "  ".join(f"{name} {value:.1f}" for name, value in found["scores"].items())
        print(f"{run.rung:>6}  {figures}  {run.name}, seed {run.seed}", flush=True)

    def _teacher(self) -> dict[str, Any]:
        """Pack the photographs, compute the teacher's vectors, and score them."""
        shutil.rmtree(self._root / "data", ignore_errors=True)
        content = self._experiment("prepare")
        cost = sum((self._mvmr(command, content) for command in PREPARATION), Cost(0.0, 0.0, 0))
        start = before_training(from_sections(content))
        images = packed_images(self._data.shards, start.image)
        subject = stored_subject(FeatureStore(self._data.features)["teacher"], images)
        found = self._scores(subject, images, start, "test", 0)
        return {"seconds": _seconds(cost), "scores": found}

    def _prepare(self) -> None:
        """Make packed photographs and vectors if they are not there; their time is known."""
        for command in PREPARATION:
            call(self._root, command, self._experiment("prepare"))

    def _start(self) -> dict[str, Any]:
        return {"scores": self._of_weights(self._paths["student"], STUDENT_SIZE, "test")}

    def _student(self, run: Run) -> dict[str, Any]:
        found = self._ours(run) if run.name in OUR_WAYS else self._peers(run)
        return {"recipe": recipe(run.name), **found}

    def _ours(self, run: Run) -> dict[str, Any]:
        name = identifier(f"{run.name}-{run.rung}-{run.seed}")
        an_epoch = self._training_images() // BATCH_SIZE
        epochs = max(1, round(run.rung / an_epoch))
        content = self._experiment(name, way=run.name, epochs=epochs, seed=run.seed)
        shutil.rmtree(self._root / RUNS, ignore_errors=True)
        cost = self._mvmr("train", content)
        (times,) = run_layout(name).times.glob("train-*.json")
        (attempt,) = json.loads(times.read_text(encoding="utf-8"))["attempts"]
        trained = load_checkpoint(run_layout(name).checkpoints / BEST)
        return {
            "steps": epochs * an_epoch,
            "epochs": epochs,
            "seconds": _seconds(cost, inside=attempt["seconds"]),
            "scores": self._of(trained, "test", run.seed),
        }

    def _peers(self, run: Run) -> dict[str, Any]:
        """Distil by the peer, and score at the size that is better on validation images."""
        way = PEERS[run.name]
        folder = self._root / "peer" / identifier(f"{run.name}-{run.rung}-{run.seed}")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        settings = self._settings(run, way, folder)
        cost = self._peer_process(settings, folder)
        known = json.loads(Path(settings["told"]).read_text(encoding="utf-8"))
        validation = {
            size: self._of_weights(settings["trained"], size, "validation")
            for size in sorted({STUDENT_SIZE, way.trained_size})
        }
        best = max(validation, key=lambda size: merit({"scores": validation[size]}))
        return {
            "steps": run.rung,
            "seconds": _seconds(cost, inside=known["seconds"]),
            "size": best,
            "validation": validation,
            "scores": self._of_weights(settings["trained"], best, "test"),
            **known["versions"],
        }

    def _settings(self, run: Run, way: PeerWay, folder: Path) -> dict[str, Any]:
        """Return what the peer's process is to do, as plain values."""
        student = {"model": STUDENT_MODEL, "weights": self._paths["student"]}
        return {
            "images": str(self._images / "train"),
            "student": {**student, "size": way.student_size},
            "teacher": {"model": TEACHER_MODEL, "weights": self._paths["teacher"]},
            "pretrain": way.pretrain,
            "steps": run.rung,
            "epochs": -(-run.rung // (self._training_images() // way.batch_size)),
            "seed": run.seed,
            "out": str(folder / "out"),
            "trained": str(folder / "trained.safetensors"),
            "told": str(folder / "told.json"),
        }

    def _peer_process(self, settings: Mapping[str, Any], folder: Path) -> Cost:
        file = folder / "settings.json"
        file.write_text(json.dumps(settings), encoding="utf-8")
        cache = {"LIGHTLY_TRAIN_CACHE_DIR": str(folder / "cache")}
        return cost_of_process(
            [str(self._peer_python), "-I", str(PEER_PROCESS), str(file)],
            folder=folder,
            environment={**self._environment, **PEER_ENVIRONMENT, **cache},
            log=folder / "log.txt",
        )

    def _mvmr(self, command: str, content: Mapping[str, Any]) -> Cost:
        return cost_of_process(
            [*MVMR, command, "--quiet", "--config", str(written(self._root, content))],
            folder=self._root,
            environment=self._environment,
            log=self._root / f"{command}.txt",
        )

    def _of_weights(self, weights: str, size: int, split: Split) -> dict[str, float]:
        """Return the scores of the student with the weights of a file, on images of `size`."""
        content = self._experiment("scored", size=size)
        content["student"]["weights"] = weights
        return self._of(before_training(from_sections(content)), split, 0)

    def _of(self, checkpoint: Checkpoint, split: Split, seed: int) -> dict[str, float]:
        images = packed_images(self._data.shards, checkpoint.image)
        shutil.rmtree(self._root / "work", ignore_errors=True)
        subject = subjects_of(checkpoint, images, self._root / "work")["student"]
        return self._scores(subject, images, checkpoint, split, seed)

    def _scores(
        self, subject: Subject, images: Images, checkpoint: Checkpoint, split: Split, seed: int
    ) -> dict[str, float]:
        work = self._root / "work"
        found = scores(
            subject, images, checkpoint, split=split, protocols=FIGURES, work=work, seed=seed
        )
        return {name: round(value, DIGITS) for name, value in found.items()}

    def _training_images(self) -> int:
        train = read_manifests(self._data.shards)["train"]
        return int(train.samples - len(train.invalid))

    def _experiment(self, name: str, **options: Any) -> dict[str, Any]:
        content: dict[str, Any] = filled(experiment(name, **options), self._paths)
        return content


def _seconds(cost: Cost, *, inside: float | None = None) -> dict[str, float]:
    """Return seconds of a process, of them those before and after the training itself."""
    around = {} if inside is None else {"around": round(cost.wall - inside, 1)}
    return {"cpu": round(cost.cpu, 1), "wall": round(cost.wall, 1), **around}
