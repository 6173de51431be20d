"""`mvmr evaluate`: score the student by each protocol, beside controls obtained the same way."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table

from pipeline.checkpoints import BEST, Checkpoint, load_checkpoint
from pipeline.datasets.base import Split
from pipeline.encoders import build_encoder
from pipeline.errors import ConfigError, DataError, unknown_name
from pipeline.evaluation.images import Images
from pipeline.evaluation.record import full_record, summary, write_predictions
from pipeline.evaluation.setting import Outcome, Setting, Values
from pipeline.evaluation.subjects import Subject, encoder_subject, pixel_subject, stored_subject
from pipeline.evaluation.table import AnyProtocol, require_something_to_find, score_all
from pipeline.loading.batch import SplitData
from pipeline.runtime import Progress, device_from, sha256_of, write_json
from pipeline.shards import Manifest, read_manifests
from pipeline.storage import remove_tree
from pipeline.training.tuning import Wanted
from stages.console import Screen, table
from stages.experiment import Experiment, load
from stages.layout import DatasetLayout, RunLayout, dataset_layout, evaluation_work, run_layout
from stages.material import check_source, checked_features
from stages.result import Result, follow
from stages.summary import announce


def evaluate(
    screen: Screen,
    *,
    config: Path,
    assignments: tuple[str, ...],
    data: str,
    only: tuple[str, ...],
    checkpoint: Path | None,
    auto_lr: bool,
    auto_batch_size: bool,
) -> Result:
    """Score the trained student, the untrained one, pixels and every stored feature alike."""
    experiment = load(config, assignments)
    layout, stored = run_layout(experiment.name), dataset_layout(experiment.dataset.name, data)
    for name in only:
        if name not in experiment.evaluate:
            raise ConfigError(unknown_name("protocol", name, experiment.evaluate))
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
    setting, subjects = _material(experiment, trained, stored, progress)
    setting = replace(setting, wanted=wanted)
    records = {}
    for name, options in protocols.items():
        outcomes = score_all(options, subjects, setting)
        record = full_record(outcomes, _provenance(experiment, options, trained, path))
        if checkpoint is None:
            _write(layout, name, outcomes, record, setting.images)
        records[name] = record
        progress.finish()
        progress.note(f"{name}: {_headline(record)}")
    tables = [_result_table(f"{experiment.name}: {n}", record) for n, record in records.items()]
    following = follow(["mvmr", "report"], config, assignments)
    return Result({"protocols": records}, tables, following if checkpoint is None else ())


def _headline(record: Values) -> str:
    """Return the main figure of the student, with its interval where it has one."""
    main = record["main"]
    interval = (record.get(f"{main}_low"), record.get(f"{main}_high"))
    between = f" ({interval[0]:.4g} to {interval[1]:.4g})" if None not in interval else ""
    value = record.get(main)
    return f"{main.replace('_', ' ')} {value:.4g}{between}" if value is not None else main


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


def _material(
    experiment: Experiment, trained: Checkpoint, layout: DatasetLayout, progress: Progress
) -> tuple[Setting, list[Subject]]:
    """Return what the protocols need, and who is scored: the student first, then the controls."""
    image = experiment.dataset.image
    device = device_from("auto")
    check_source(experiment, layout, progress)
    manifests = read_manifests(layout.shards)
    _require_same_images(trained, experiment.dataset.name, manifests)
    images = Images(
        {
            split: SplitData(layout.shards / split, manifest, {}, image)
            for split, manifest in manifests.items()
        }
    )
    features = checked_features(experiment, experiment.features, layout, progress)
    progress.start("build encoders", 0, "")
    untrained = build_encoder(
        trained.student, channels=image.channels, size=image.size, seed=experiment.seed
    )
    work = evaluation_work(experiment.name)
    references = {name: stored_subject(f, images) for name, f in features.items()}
    pixels = pixel_subject(images, device=device, progress=progress)
    encoders = {"student": trained.build(), "untrained": untrained}
    subjects = [
        encoder_subject(name, encoder, images, device=device, cache=work, progress=progress)
        for name, encoder in encoders.items()
    ]
    setting = Setting(
        images=images,
        references=references,
        specifications=experiment.features,
        checkpoint=trained,
        device=device,
        seed=experiment.seed,
        work=work,
        progress=progress,
    )
    beside = [] if "pixels" in references else [pixels]
    return setting, [*subjects, *beside, *references.values()]


def _require_same_images(
    trained: Checkpoint, dataset: str, manifests: Mapping[Split, Manifest]
) -> None:
    """Raise DataError if the data set was cut anew since: test images may be training images."""
    seen = dict(trained.about.get("shards", {}))
    if seen.pop("dataset", None) != dataset:
        return
    now = {split: manifest.digest for split, manifest in manifests.items()}
    other = [split for split, digest in seen.items() if now.get(split) != digest]
    if other:
        raise DataError(
            f"The checkpoint was trained on other {' and '.join(other)} images of {dataset!r} than "
            "these shards hold, so that images it has seen may be among the test images: run "
            "`mvmr train`, or restore the shards."
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
