"""`mvmr evaluate`: score the student by each protocol, beside controls obtained the same way."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from pipeline.checkpoints import BEST, Checkpoint, load_checkpoint
from pipeline.errors import ConfigError, unknown_name
from pipeline.evaluation.images import Images
from pipeline.evaluation.record import full_record, summary, write_predictions
from pipeline.evaluation.setting import Outcome, Setting, Values
from pipeline.evaluation.table import AnyProtocol, score_all
from pipeline.runtime import Progress, sha256_of, write_json
from pipeline.storage import remove_tree
from pipeline.timing import timed
from stages.console import ConsoleProgress, table
from stages.experiment import Experiment, load
from stages.layout import RunLayout, dataset_layout, evaluation_work, run_layout
from stages.options import console, data_option, experiment_options
from stages.scoring import Scored, scored
from stages.times import evaluation_record


@click.command("evaluate")
@experiment_options
@click.option("--only", multiple=True, metavar="NAME", help="Run this protocol; repeatable.")
@click.option(
    "--checkpoint",
    metavar="FILE",
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
    """Score the trained student, the untrained one, pixels and every stored feature alike.

    FILE of --checkpoint may hold released MV-MR weights as they are.
    """
    experiment = load(config, assignments)
    layout, screen = run_layout(experiment.name), console(quiet=quiet)
    for name in only:
        if name not in experiment.evaluate:
            raise ConfigError(unknown_name("protocol", name, experiment.evaluate))
    protocols = {n: p for n, p in experiment.evaluate.items() if not only or n in only}
    path = checkpoint or layout.checkpoints / BEST
    trained = load_checkpoint(path, student=experiment.student, image=experiment.dataset.image)
    with ConsoleProgress(screen) as progress:
        stored = dataset_layout(experiment.dataset.name, data)
        seen = scored(experiment, trained, stored, progress)
        setting = _setting(experiment, trained, seen, progress)
        for name, options in protocols.items():
            progress.note(f"{name}: {options.kind}")
            provenance = _provenance(experiment, options, trained, path)
            records = [evaluation_record(layout, name, provenance)] if checkpoint is None else []
            with timed(records, progress):
                outcomes = score_all(options, seen.subjects, setting)
            record = full_record(outcomes, provenance)
            if checkpoint is None:
                _write(layout, name, outcomes, record, seen.images)
            screen.print(_result_table(f"{experiment.name}: {name}", record))


def _write(
    layout: RunLayout,
    name: str,
    outcomes: Mapping[str, Outcome],
    record: Values,
    images: Images,
) -> None:
    write_json(layout.metrics / f"{name}.json", record)
    write_json(layout.scores / f"{name}.json", summary(outcomes))
    directory = layout.predictions / name
    remove_tree(directory)
    directory.mkdir(parents=True)
    predictions = outcomes["student"].predictions
    if predictions is not None:
        path = directory / "predictions.csv"
        write_predictions(path, predictions, classes=images.classes, names=images.names("test"))


def _setting(
    experiment: Experiment, trained: Checkpoint, seen: Scored, progress: Progress
) -> Setting:
    """Return what the protocols may use beside who is scored."""
    return Setting(
        images=seen.images,
        references=seen.references,
        specifications=experiment.features,
        checkpoint=trained,
        device=seen.device,
        seed=experiment.seed,
        work=evaluation_work(experiment.name),
        progress=progress,
    )


def _provenance(
    experiment: Experiment, options: AnyProtocol, trained: Checkpoint, path: Path
) -> dict[str, Any]:
    """Say what a reader needs in order to believe the values."""
    return {
        "protocol": options.model_dump(mode="json"),
        "checkpoint": {
            "file": path.name,
            "sha256": sha256_of(path),
            "selection": trained.about.get("selection"),
        },
        "seed": experiment.seed,
        "experiment": {"name": experiment.name, "digest": experiment.digest()},
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
