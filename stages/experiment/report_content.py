"""The content of a report, gathered from the files that the stages left."""

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from pipeline.base.digests import sha256_of
from pipeline.base.errors import DataError
from pipeline.base.locations import Location
from pipeline.base.progress import Progress
from pipeline.base.timing import read_attempts
from pipeline.datasets.source import Split
from pipeline.evaluation.protocol import BALANCED
from pipeline.evaluation.record import LIBRARIES, leading, read_per_image
from pipeline.features.store import FeatureStore
from pipeline.features.store.integrity import REDUCTION
from pipeline.loading.batch import NO_LABEL
from pipeline.metrics.paired import ScoredImages, class_mean
from pipeline.models.checkpoint import BEST, Checkpoint, load_checkpoint
from pipeline.models.encoder import parameters_count
from pipeline.models.exporting import FORMATS, card_of, int8_path
from pipeline.reporting import Report, RunFacts
from pipeline.reporting.confusion import Prediction
from pipeline.reporting.health import collapse_of
from pipeline.reporting.run_facts import Cached, Student, Work
from pipeline.reporting.run_facts import Split as SplitFacts
from pipeline.reporting.sample import ImageSample
from pipeline.representations.teachers.frozen import TeacherOptions
from pipeline.shards.manifest import Manifest, read_manifests
from stages.experiment.freshness import checked_features
from stages.experiment.paths import DatasetLayout, RunLayout
from stages.experiment.run_identity import scored_control
from stages.experiment.schema import Experiment
from stages.experiment.scored_subjects import scored
from stages.experiment.time_records import (
    evaluation_record,
    feature_record,
    shard_record,
    training_record,
)

IMAGES = 2000  # that the pictures use, at most
NAMED = 5  # of the images that could not be decoded, at most

Manifests = Mapping[Split, Manifest]


def gather(
    experiment: Experiment,
    file: str,
    assignments: Sequence[str],
    layout: RunLayout,
    stored: DatasetLayout,
    progress: Progress,
) -> Report:
    """Return the content of a finished run's page.

    Raises DataError if the run has not been trained, or if its images or features have changed.
    """
    if not layout.curves.exists() or not (layout.checkpoints / BEST).exists():
        raise DataError(f"There is no finished run in {layout.root}: run `mvmr train`.")
    trained = load_checkpoint(
        layout.checkpoints / BEST, student=experiment.student, image=experiment.dataset.image
    )
    manifests = read_manifests(stored.shards)
    sample = _sample(experiment, trained, manifests, layout, stored, progress)
    metrics = _metrics(layout, experiment)
    protocol, predictions = _predictions(layout, experiment)
    run = RunFacts(
        name=experiment.name,
        digest=experiment.digest(),
        config=experiment.model_dump(mode="json"),
        classes=manifests["train"].classes or (),
        multi_label=manifests["train"].multi_label,
        splits={split: _split(manifest) for split, manifest in manifests.items()},
        cached=tuple(_cached(experiment, stored, manifests)),
        student=_student(trained, layout),
        training=_json(layout.training_metrics),
        curves=_curves(layout.curves),
        metrics=metrics,
        health={name: collapse_of(space) for name, space in sample.spaces.items()},
        work=tuple(_work(experiment, trained, metrics, layout, stored, manifests)),
        versions={name: version(name) for name in (*LIBRARIES, "lightning", "zarr")},
        per_image=per_image(layout, metrics),
        int8=_int8(experiment, layout),
    )
    return Report(run, sample, experiment.features, file, assignments, protocol, predictions)


def _sample(
    experiment: Experiment,
    trained: Checkpoint,
    manifests: Manifests,
    layout: RunLayout,
    stored: DatasetLayout,
    progress: Progress,
) -> ImageSample:
    """Return the first images of the last split, with all their spaces."""
    features = checked_features(experiment, experiment.features, stored, progress)
    seen = scored(
        experiment,
        trained,
        stored,
        features,
        layout.embeddings,
        progress,
        supervised=scored_control(experiment, layout),
        first=IMAGES,
    )
    split = list(manifests)[-1]
    labels = seen.images.labels(split)
    single = not seen.images.several_classes and bool((labels != NO_LABEL).all())
    return ImageSample(
        split=split,
        image=experiment.dataset.image,
        images=torch.cat(list(seen.images.batches(split))),
        names=seen.images.names(split),
        labels=labels if single else None,
        classes=seen.images.classes,
        spaces={subject.name: subject.of(split) for subject in seen.subjects},
        tags=() if single else _tags(labels),
    )


def _tags(labels: torch.Tensor) -> list[list[int]]:
    """Return the classes of each image, from the labels (N,) or (N, K) of a batch."""
    if labels.ndim == 1:
        return [[label] if label != NO_LABEL else [] for label in labels.tolist()]
    return [(row == 1).nonzero().flatten().tolist() for row in labels]


def _split(manifest: Manifest) -> SplitFacts:
    return SplitFacts(
        images=manifest.samples - manifest.gone,
        labelled=manifest.labelled,
        invalid=len(manifest.invalid) - manifest.gone,
        bytes=sum(shard.bytes for shard in manifest.shards),
        digest=manifest.digest,
        left_out=tuple(islice(manifest.left_out, NAMED)),
        reduced=manifest.reduced,
        saved=manifest.saved,
    )


def _cached(
    experiment: Experiment, stored: DatasetLayout, manifests: Manifests
) -> Iterator[Cached]:
    store = FeatureStore(stored.features)
    for name, options in experiment.features.items():
        feature = store[name]
        fidelity = feature.report["fidelity"]
        record = feature_record(stored, name, options, experiment.dataset.image, manifests)
        yield Cached(
            name=name,
            kind=options.kind,
            teacher=isinstance(options, TeacherOptions),
            width=feature.width,
            original_width=feature.report["original_width"],
            stored_type=feature.stored_type,
            images=sum(feature.splits.values()),
            bytes=_bytes(feature.path),
            bytes_per_image=fidelity["bytes_per_image"],
            dcor_error=fidelity["dcor_error_max"],
            dcor_error_independent=fidelity["dcor_error_independent"],
            digest=feature.digest,
            images_per_second=_speed(Work(name, tuple(read_attempts(record)))),
            basis_bytes=_basis_bytes(feature.path / REDUCTION),
            views=feature.views.count if feature.views else 0,
            whitened_errors=fidelity.get("dcor_error_whitened", {}),
        )


def _bytes(directory: Location) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())


def _basis_bytes(directory: Location) -> int:
    """Return the bytes of the arrays that map a representation to what is stored."""
    return sum(_bytes(array) for array in directory.iterdir() if array.is_dir())


def _speed(work: Work) -> float | None:
    """Return the images per second of the phase that computed the feature, if it computed any."""
    phases = [p for a in work.attempts for p in a.phases if p.step == "extract"]
    seconds, done = sum(p.seconds for p in phases), sum(p.done for p in phases)
    return done / seconds if done and seconds > 0 else None


def _student(trained: Checkpoint, layout: RunLayout) -> Student:
    encoder = trained.build()
    return Student(
        architecture=trained.student.architecture,
        parameters=parameters_count(encoder.backbone),
        width=encoder.h_width,
        checkpoint=BEST,
        sha256=sha256_of(layout.checkpoints / BEST),
    )


def _curves(path: Path) -> tuple[dict[str, float | None], ...]:
    """Read the rows that training wrote, one per epoch; values that are not finite become None."""
    with path.open(newline="", encoding="utf-8") as file:
        return tuple({k: _finite(v) for k, v in row.items()} for row in csv.DictReader(file))


def _finite(text: str) -> float | None:
    value = float(text) if text else math.nan
    return value if math.isfinite(value) else None


def _metrics(layout: RunLayout, experiment: Experiment) -> dict[str, dict[str, Any]]:
    """Read the metrics of the protocols that the experiment names, without their details."""
    found = {}
    for name in experiment.evaluate:
        path = layout.metrics / f"{name}.json"
        if path.exists():
            found[name] = {k: v for k, v in _json(path).items() if k != "details"}
    return found


def per_image(
    layout: RunLayout, metrics: Mapping[str, Mapping[str, Any]]
) -> dict[str, ScoredImages]:
    """Read the values of each scored image, for the protocols that wrote them.

    Raises DataError if they are from another evaluation than the metrics.
    """
    found = {}
    for name, record in metrics.items():
        path = layout.per_image(name)
        if not path.exists():
            continue
        main = leading(record)
        images = read_per_image(path)
        if main == BALANCED:
            told = _classes(images, layout.predictions / name / "predictions.csv")
            images = replace(images, classes=told)
        found[name] = images
        own = images.values.get("student")
        if own is not None and not math.isclose(
            100 * class_mean(own, images.classes), record[main], abs_tol=1e-3
        ):
            raise DataError(
                f"{path} and the scores of {name} are of different evaluations: run `mvmr "
                "evaluate` and `mvmr report` with the run's config."
            )
    return found


def _classes(images: ScoredImages, predictions: Path) -> list[str]:
    """Return the class of each image, which predictions tell."""
    with predictions.open(newline="", encoding="utf-8") as file:
        classes = {row["image"]: row["actual"] for row in csv.DictReader(file)}
    if not classes.keys() >= set(images.names):
        raise DataError(f"{predictions} is of another evaluation: run `mvmr evaluate`.")
    return [classes[name] for name in images.names]


def _json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _predictions(layout: RunLayout, experiment: Experiment) -> tuple[str, list[Prediction]]:
    """Return the name and predictions of the first protocol that has some, else "" and none."""
    for name in experiment.evaluate:
        path = layout.predictions / name / "predictions.csv"
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                rows = [_prediction(row) for row in csv.DictReader(file)]
            if rows:
                return name, rows
    return "", []


def _prediction(row: Mapping[str, str]) -> Prediction:
    return Prediction(row["image"], row["actual"], row["predicted"], float(row["confidence"]))


def _int8(experiment: Experiment, layout: RunLayout) -> dict[str, Any] | None:
    """Return the comparison in the card of the int8 export, if it is of the best checkpoint."""
    card = card_of(int8_path(layout.export(experiment.name, FORMATS["onnx"].ending)))
    found = _json(card) if card.exists() else {}
    of_best = found.get("checkpoint", {}).get("sha256") == sha256_of(layout.checkpoints / BEST)
    return found.get("comparison") if of_best else None


def _work(
    experiment: Experiment,
    trained: Checkpoint,
    metrics: Mapping[str, Mapping[str, Any]],
    layout: RunLayout,
    stored: DatasetLayout,
    manifests: Manifests,
) -> Iterator[Work]:
    """Yield the recorded times of each stage."""
    image, train = experiment.dataset.image, manifests["train"]
    records = {"shard": shard_record(stored, train.options, train.source)}
    for name, options in experiment.features.items():
        records[f"extract {name}"] = feature_record(stored, name, options, image, manifests)
    if experiment.train is not None:
        records["train"] = training_record(layout, trained.about.get("digest", ""))
    for name, record in metrics.items():
        records[f"evaluate {name}"] = evaluation_record(layout, name, record)
    for stage, path in records.items():
        yield Work(stage, tuple(read_attempts(path)))
