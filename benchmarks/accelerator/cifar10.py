"""The study's finalists with ResNet-18 on CIFAR-10, for as many epochs as time allows.

The number of epochs is chosen once, from the measured cost of a step of each objective. It is the
same for all, so that they can be compared. It is kept below the working folder, so a later call
with the same folder resumes with the same schedule. Each student is scored on the test images by
the linear and the nearest-neighbour probe.
"""

import csv
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.accelerator.results import Options, Results, read
from benchmarks.accelerator.steps import SMALL, TINY, Setting, cost
from benchmarks.study.candidates import BASELINE, GRADIENTS
from benchmarks.study.halving import CHOSEN_BY, Run
from benchmarks.study.records import file_of
from benchmarks.study.runs import Study
from benchmarks.study.setups import CIFAR10, CLIP, CLIP_DEFAULT, Setup
from pipeline.base.atomic import write_json
from pipeline.training.fit import CURVES
from stages.experiment.paths import unfinished_runs

SEED = 0
FINALISTS = (GRADIENTS, BASELINE, CLIP_DEFAULT)
TRAINING_IMAGES = 40_500
# Time of an epoch besides its steps: validation, online probes, saving.
STEP_FACTOR, EPOCH_SECONDS = 1.2, 3.0
# Time of a run besides its epochs: decoding the images, building the student, scoring it.
RUN_SECONDS = 25.0
SAVING_SECONDS = 15.0
LEAST_SECONDS = 40.0  # a run with less time is not started
PLAN = "plan.json"


def measure(options: Options, results: Results) -> None:
    """Extract, choose the number of epochs, train and score each finalist."""
    root = options.work / "cifar10"
    setting = TINY if options.tiny else SMALL
    images = made_images(options.work / "images") if options.tiny else options.images
    if images is None:
        raise SystemExit("The section cifar10 needs --images.")
    names = finalists(options)
    study = Study(
        setup_of(setting),
        root=root,
        results=root / "results",
        images=images,
        teacher=options.teacher or Path("none"),
    )
    began = time.time()
    study.prepare(names)
    results.add("shards and features, seconds", time.time() - began)
    plan = root / PLAN
    if not plan.exists():
        write_json(plan, chosen(names, setting, options))
    found = read(plan)
    results.add("plan", found)
    steps = found["epochs"] * study.steps_an_epoch
    runs = {name: Run(name, steps, SEED, "test") for name in names}
    for name, run in runs.items():
        if options.seconds_left < LEAST_SECONDS:
            break
        with interrupted_after(options.seconds_left - SAVING_SECONDS):
            results.attempt(name, partial(trained, study, run))
    left = [name for name, run in runs.items() if not file_of(study.folder, run).exists()]
    if left:
        raise SystemExit(f"Not finished: {'; '.join(left)}. The same command resumes them.")


def finalists(options: Options) -> Sequence[str]:
    """Return the candidates that can be trained: without a teacher, those that need none."""
    if options.tiny:
        return ("vicreg",)
    return FINALISTS if options.teacher else FINALISTS[:2]


def setup_of(setting: Setting) -> Setup:
    """Return the study's setup with another student and batch; the teacher sees whole images."""
    return replace(
        CIFAR10,
        features={**CIFAR10.features, "clip": CLIP},
        student={"stem": "3x3", **setting.student},
        train={**CIFAR10.train, "batch_size": setting.batch, "precision": "bf16"},
    )


def chosen(names: Sequence[str], setting: Setting, options: Options) -> dict[str, Any]:
    """Return the number of epochs that time allows, and the figures that it follows from."""
    steps = TRAINING_IMAGES // setting.batch
    milliseconds = {
        name: cost(setting, CIFAR10.candidates[name].terms, options.device)["milliseconds"]
        for name in names
    }
    an_epoch = sum(
        EPOCH_SECONDS + STEP_FACTOR * steps * each / 1e3 for each in milliseconds.values()
    )
    left = options.seconds_left - SAVING_SECONDS - RUN_SECONDS * len(names)
    epochs = 1 if options.tiny else options.epochs or max(2, int(left / an_epoch))
    return {"epochs": epochs, "milliseconds a step": milliseconds, "seconds left": left}


def trained(study: Study, run: Run) -> dict[str, Any]:
    """Train a candidate and score it; if it was interrupted, return how far it got."""
    began, file = time.time(), file_of(study.folder, run)
    try:
        if not file.exists():
            study.do(run)
        stopped = False
    except (SystemExit, KeyboardInterrupt):  # from training, which has reported it, or from scoring
        stopped = True
    scores = {} if stopped else read(file)["scores"]
    found: dict[str, Any] = {name: scores[name] for name in CHOSEN_BY if name in scores}
    curves = newest_curves() if stopped else study.curves(run)
    return {
        **found,
        "seconds": time.time() - began,
        "finished": not stopped,
        **last_row(curves),
    }


def newest_curves() -> Path | None:
    """Return the curves of the run that was interrupted last."""
    files = sorted(unfinished_runs().glob(f"*/{CURVES}"), key=lambda path: path.stat().st_mtime)
    return files[-1] if files else None


def last_row(curves: Path | None) -> dict[str, Any]:
    """Return the figures of the last epoch, and the number of epochs."""
    if curves is None or not curves.exists():
        return {"epochs": 0}
    with curves.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    last = {f"last epoch, {name}": float(value) for name, value in rows[-1].items() if value}
    return {"epochs": len(rows), **last}


@contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """Interrupt this process when time is up, as Ctrl-C does: training saves and ends."""
    timer = threading.Timer(max(0.1, seconds), os.kill, (os.getpid(), signal.SIGINT))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def made_images(root: Path) -> Path:
    """Write a few noisy JPEG files of two classes, and return their folder."""
    random = np.random.default_rng(0)
    for split, count in (("train", 100), ("test", 20)):
        for number in range(count):
            label = number % 2
            path = root / split / str(label) / f"{number:03d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = random.integers(100 * label, 100 * label + 100, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
    return root
