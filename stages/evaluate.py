"""`mvmr evaluate`: score the student by each protocol, beside controls obtained the same way."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table

from pipeline.base.atomic import write_json
from pipeline.base.digests import sha256_of
from pipeline.base.locations import remove_tree
from pipeline.base.progress import Progress
from pipeline.base.text import spoken
from pipeline.base.timing import timed
from pipeline.evaluation.image_set import Images
from pipeline.evaluation.protocol import Outcome, Setting, Values
from pipeline.evaluation.protocols import AnyProtocol, require_something_to_find, score_all
from pipeline.evaluation.record import full_record, summary, write_per_image, write_predictions
from pipeline.models.checkpoint import BEST, Checkpoint, load_checkpoint
from pipeline.training.trial import Wanted
from stages.experiment.chosen import Chosen
from stages.experiment.paths import RunLayout, dataset_layout, evaluation_work, run_layout
from stages.experiment.schema import Experiment
from stages.experiment.scored_subjects import Scored, scored
from stages.experiment.time_records import evaluation_record
from stages.terminal.announcement import announce
from stages.terminal.console import Screen, table
from stages.terminal.result import Result, headline


def evaluate(
    screen: Screen,
    *,
    chosen: Chosen,
    data: str,
    only: tuple[str, ...],
    checkpoint: Path | None,
    auto_lr: bool,
    auto_batch_size: bool,
) -> Result:
    """Score the trained student, the untrained one, pixels and every stored feature alike."""
    experiment = chosen.experiment
    layout, stored = run_layout(experiment.name), dataset_layout(experiment.dataset.name, data)
    protocols = {n: p for n, p in experiment.evaluate.items() if not only or n in only}
    wanted = Wanted(lr=auto_lr, batch_size=auto_batch_size)
    if wanted:
        require_something_to_find(protocols)
    path = checkpoint or layout.checkpoints / BEST
    announce(
        screen,
        f"evaluate {', '.join(protocols)}",
        experiment,
        data=stored,
        reads=[path, stored.shards, stored.features],
        writes=[layout.metrics, layout.scores, layout.predictions] if checkpoint is None else [],
        student=True,
        device=True,
    )
    progress = screen.progress
    progress.start("load the checkpoint", 0, "")
    trained = load_checkpoint(path, student=experiment.student, image=experiment.dataset.image)
    seen = scored(experiment, trained, stored, progress)
    setting = replace(_setting(experiment, trained, seen, progress), wanted=wanted)
    records = {}
    for name, options in protocols.items():
        provenance = _provenance(experiment, options, trained, path)
        times = [evaluation_record(layout, name, provenance)] if checkpoint is None else []
        with timed(times, progress):
            outcomes = score_all(options, seen.subjects, setting)
        record = full_record(outcomes, provenance)
        if checkpoint is None:
            _write(layout, name, outcomes, record, seen.images)
        records[name] = record
        progress.finish()
        progress.note(f"{name}: {headline(record)}")
    tables = [_result_table(f"{experiment.name}: {n}", record) for n, record in records.items()]
    following = ["mvmr", "report"]
    return Result({"protocols": records}, tables, following if checkpoint is None else ())


def _write(
    layout: RunLayout,
    name: str,
    outcomes: Mapping[str, Outcome],
    record: Values,
    images: Images,
) -> None:
    write_json(layout.metrics / f"{name}.json", record)
    write_json(layout.scores / f"{name}.json", summary(outcomes))
    split = record["split"]
    names, identities = images.names(split), images.identities(split)
    write_per_image(layout.per_image(name), outcomes, names, identities)
    directory = layout.predictions / name
    remove_tree(directory)
    directory.mkdir(parents=True)
    predictions = outcomes["student"].predictions
    names = images.names("test") if predictions is not None else []
    path = directory / "predictions.csv"
    write_predictions(path, predictions, classes=images.classes, names=names)


def _setting(
    experiment: Experiment, trained: Checkpoint, seen: Scored, progress: Progress
) -> Setting:
    """Return what the protocols may use besides the subjects that they score."""
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
    """Return what a reader must know in order to trust the values."""
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
    """Return a table with one column per subject and one row per number."""
    subjects = {"student": record, **record["controls"]}
    flat = {name: dict(_numbers(values, record["main"])) for name, values in subjects.items()}
    names = list(dict.fromkeys(number for numbers in flat.values() for number in numbers))
    rows = [[n, *(flat[subject].get(n, "") for subject in flat)] for n in names]
    return table(title, ["", *flat], rows)


def _numbers(values: Values, main: str) -> Iterator[tuple[str, str]]:
    """Yield the named numbers of a subject, with those of its `with_<reference>` sections."""
    for name, value in values.items():
        if isinstance(value, int | float) and not isinstance(value, bool) and name != "seed":
            yield spoken(name, main=main), f"{value:.4g}"
        elif name.startswith("with_"):
            for inner, number in value.items():
                yield spoken(f"{inner}_{name}"), f"{number:.3g}"
