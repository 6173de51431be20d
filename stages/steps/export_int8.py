"""Exporting the backbone of a run as ONNX in float and in int8, and comparing the two files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.base.devices import cpu_name
from pipeline.base.progress import Progress
from pipeline.datasets.source import Split
from pipeline.evaluation.protocol import ProtocolOptions
from pipeline.evaluation.protocols import score_all
from pipeline.evaluation.record import full_record
from pipeline.evaluation.retrieval import AGREEMENT_K, neighbour_agreement
from pipeline.images.original_view import normalise
from pipeline.metrics.accuracy import bootstrap_interval
from pipeline.models import exporting
from pipeline.models.checkpoint import BEST, Checkpoint, load_checkpoint
from pipeline.models.encoder import Encoder
from pipeline.models.exporting import amend_card
from pipeline.models.onnx_file import TIMED_RUNS, OnnxModule, latencies
from stages.experiment.freshness import checked_features
from stages.experiment.paths import DatasetLayout, RunLayout
from stages.experiment.schema import Experiment
from stages.experiment.scored_subjects import Scored, images_of, scored_encoders
from stages.steps.export_backbone import export_backbone, main_figure

CALIBRATION_IMAGES = 128
THREADS = 1  # of the measured latency

FLOAT, INT8 = "float", "int8"


def export_int8(
    experiment: Experiment,
    stored: DatasetLayout,
    layout: RunLayout,
    progress: Progress,
    *,
    path: Path,
    checkpoint: Path | None = None,
    network: nn.Module | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Write the backbone to `path` as ONNX, and its int8 form beside it.

    Return the path of the latter, and the comparison of both, which their cards hold. Raises
    DataError if the shards are missing, or not those of the checkpoint.
    """
    source = checkpoint or layout.checkpoints / BEST
    trained = load_checkpoint(
        source, student=experiment.student, image=experiment.dataset.image, network=network
    )
    images = images_of(experiment, trained, stored, first=CALIBRATION_IMAGES)
    features = checked_features(experiment, experiment.features, stored, progress)
    export_backbone(
        experiment, layout, form="onnx", path=path, checkpoint=checkpoint, network=network
    )
    views = torch.cat(list(images.batches("train")))
    progress.start(f"quantise by {len(views)} training images", 0, "")
    target = exporting.export_int8(trained, path, views, source=source)
    files = {FLOAT: path, INT8: target}
    encoders = {name: _encoder(trained, file) for name, file in files.items()}
    seen = scored_encoders(
        encoders, experiment, trained, stored, features, layout.embeddings, progress
    )
    scores = _scores(experiment, trained, seen, layout, progress)
    split = _last_split(seen)
    progress.start("measure latency", 0, "")
    view = normalise(next(seen.images.batches(split))[0], seen.images.image)
    times = latencies(files, view, threads=THREADS)
    comparison = {
        **{
            name: {
                "file": file.name,
                "bytes": file.stat().st_size,
                "latency_ms": times[name],
                "scores": scores[name],
            }
            for name, file in files.items()
        },
        "latency": {"cpu": cpu_name(), "threads": THREADS, "images": 1, "runs": TIMED_RUNS},
        "agreement": _agreement(seen, split, experiment.seed),
    }
    amend_card(path, comparison=comparison)
    amend_card(target, comparison=comparison, metrics=scores[INT8])
    return target, comparison


def _encoder(trained: Checkpoint, file: Path) -> Encoder:
    width = trained.build().h_width
    return Encoder(OnnxModule(file), nn.Identity(), width, width)


def is_comparable(protocol: ProtocolOptions) -> bool:
    """Whether a protocol scores features alone, which a file gives, and trains no encoder."""
    return protocol.has_controls and not protocol.fine_tunes


def _scores(
    experiment: Experiment,
    trained: Checkpoint,
    seen: Scored,
    layout: RunLayout,
    progress: Progress,
) -> dict[str, dict[str, Any]]:
    """Return what the card says of each protocol, for each file."""
    setting = seen.setting(experiment, trained, layout.embeddings, progress)
    found: dict[str, dict[str, Any]] = {FLOAT: {}, INT8: {}}
    for name, protocol in experiment.evaluate.items():
        if is_comparable(protocol):
            for file, outcome in score_all(protocol, seen.encoders, setting).items():
                found[file][name] = main_figure(full_record({file: outcome}, {}))
    return found


def _last_split(seen: Scored) -> Split:
    """Return the split that is compared: test images, or validation images without them."""
    return list(seen.images.splits)[-1]


def _agreement(seen: Scored, split: Split, seed: int) -> Mapping[str, Any]:
    """Return the mean share of nearest neighbours that both encoders have in common, in percent."""
    spaces = [subject.of(split) for subject in seen.encoders]
    k = min(AGREEMENT_K, len(spaces[0]) - 1)
    shares = neighbour_agreement(*spaces, ks=(k,), device=seen.device)[k]
    interval = bootstrap_interval(shares, seed=seed)
    return {
        "k": k,
        "percent": 100 * interval.mean,
        "low": 100 * interval.low,
        "high": 100 * interval.high,
        "split": split,
        "images": len(shares),
    }
