"""`mvmr evaluate`: score the student by each protocol, beside controls obtained the same way."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import torch
from rich.table import Table

from pipeline.checkpoints import BEST, Checkpoint, load_checkpoint
from pipeline.datasets.base import Split
from pipeline.encoders import build_encoder
from pipeline.errors import ConfigError, unknown_name
from pipeline.evaluation.subjects import (
    Images,
    Subject,
    encoder_subject,
    pixel_subject,
    stored_subject,
)
from pipeline.evaluation.table import AnyProtocol, Setting, Values, needed_splits, score
from pipeline.loading.batch import SplitData
from pipeline.loading.resident import EvaluationLoader
from pipeline.runtime import Progress, device_from, sha256_of, write_json
from pipeline.shards import read_manifests
from pipeline.storage import Location
from stages.console import ConsoleProgress, table
from stages.experiment import Experiment, load
from stages.layout import DatasetLayout, cached_embeddings, dataset_layout, run_layout
from stages.material import checked_features
from stages.options import console, data_option, experiment_options

EMBEDDING_BATCH = 256


@click.command("evaluate")
@experiment_options
@click.option("--only", multiple=True, metavar="NAME", help="Run this protocol; repeatable.")
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Score this file instead of the run's best checkpoint, and only print the scores.",
)
@data_option
def command(
    config: Path,
    assignments: tuple[str, ...],
    quiet: bool,
    data: str,
    only: tuple[str, ...],
    checkpoint: Path | None,
) -> None:
    """Score the trained student, the untrained one, pixels and every stored feature alike."""
    experiment = load(config, assignments)
    layout, screen = run_layout(experiment.name), console(quiet=quiet)
    for name in only:
        if name not in experiment.evaluate:
            raise ConfigError(unknown_name("protocol", name, experiment.evaluate))
    protocols = {n: p for n, p in experiment.evaluate.items() if not only or n in only}
    path = checkpoint or layout.checkpoints / BEST
    trained = load_checkpoint(path, student=experiment.student, image=experiment.dataset.image)
    with ConsoleProgress(screen) as progress:
        setting, subjects = _material(
            experiment, trained, dataset_layout(experiment.dataset.name, data), progress
        )
        for name, options in protocols.items():
            values = _scores(name, options, subjects, setting, progress)
            record = {
                **values.pop("student"),
                "controls": values,
                **_provenance(experiment, options, trained, path, setting),
            }
            if checkpoint is None:
                write_json(layout.metrics / f"{name}.json", record)
            screen.print(_result_table(f"{experiment.name}: {name}", record))


def _scores(
    name: str,
    options: AnyProtocol,
    subjects: list[Subject],
    setting: Setting,
    progress: Progress,
) -> dict[str, Values]:
    for subject in subjects:
        for split in needed_splits(options, setting.images):
            if split in setting.images.loaders:
                subject.of(split)
    progress.start(name, len(subjects), "subjects")
    values = {}
    for subject in subjects:
        values[subject.name] = score(options, subject, setting)
        progress.advance(1)
    return values


def _material(
    experiment: Experiment, trained: Checkpoint, layout: DatasetLayout, progress: Progress
) -> tuple[Setting, list[Subject]]:
    """Return what the protocols need, and who is scored: the student first, then the controls."""
    image = experiment.dataset.image
    device = device_from("auto")
    images = Images(dict(_loaders(layout.shards, experiment, progress)))
    features = checked_features(experiment, experiment.features, layout, progress)
    untrained = build_encoder(
        experiment.student, channels=image.channels, size=image.size, seed=experiment.seed
    )
    cache = cached_embeddings(experiment.name)
    references = {name: stored_subject(f, images) for name, f in features.items()}
    pixels = [] if "pixels" in references else [pixel_subject(images, image)]
    encoders = {"student": trained.build(), "untrained": untrained}
    subjects = [
        encoder_subject(name, encoder, images, image, device=device, cache=cache, progress=progress)
        for name, encoder in encoders.items()
    ]
    setting = Setting(images, references, device, experiment.seed)
    return setting, [*subjects, *pixels, *references.values()]


def _loaders(
    shards: Location, experiment: Experiment, progress: Progress
) -> Iterator[tuple[Split, EvaluationLoader]]:
    for split, manifest in read_manifests(shards).items():
        data = SplitData(shards / split, manifest, {}, experiment.dataset.image)
        yield split, EvaluationLoader(data, EMBEDDING_BATCH, progress=progress)


def _provenance(
    experiment: Experiment,
    options: AnyProtocol,
    trained: Checkpoint,
    path: Path,
    setting: Setting,
) -> dict[str, Any]:
    """Say what a reader needs in order to believe the values."""
    splits = needed_splits(options, setting.images)
    return {
        "protocol": options.model_dump(mode="json"),
        "split": splits[-1],
        "images": {split: len(setting.images.labels(split)) for split in splits},
        "checkpoint": {
            "file": path.name,
            "sha256": sha256_of(path),
            "selection": trained.about.get("selection"),
        },
        "seed": experiment.seed,
        "experiment": {"name": experiment.name, "digest": experiment.digest()},
        "versions": {"torch": str(torch.__version__)},
    }


def _result_table(title: str, record: Values) -> Table:
    """Return one column a subject, one row a number."""
    subjects = {"student": record, **record["controls"]}
    flat = {name: dict(_numbers(values)) for name, values in subjects.items()}
    names = list(dict.fromkeys(number for numbers in flat.values() for number in numbers))
    rows = [[n, *(flat[subject].get(n, "") for subject in flat)] for n in names]
    return table(title, ["", *flat], rows)


def _numbers(values: Values) -> Iterator[tuple[str, str]]:
    """Yield the numbers of a subject, those beside a reference under `with_<reference>`."""
    for name, value in values.items():
        if isinstance(value, int | float) and not isinstance(value, bool) and name != "seed":
            yield name.replace("_", " "), f"{value:.4g}"
        elif name.startswith("with_"):
            for inner, number in value.items():
                yield f"{inner} {name}".replace("_", " "), f"{number:.3g}"
