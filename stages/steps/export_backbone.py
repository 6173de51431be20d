"""Exporting the backbone of a run, with a card that has the scores of exactly these weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from pipeline.base.digests import sha256_of
from pipeline.models import exporting
from pipeline.models.checkpoint import BEST, load_checkpoint
from stages.experiment.paths import RunLayout
from stages.experiment.schema import Experiment


def export_backbone(
    experiment: Experiment,
    layout: RunLayout,
    *,
    form: str,
    path: Path,
    checkpoint: Path | None = None,
    network: nn.Module | None = None,
) -> Path:
    """Write the backbone to `path`, and return the path of its card.

    A student of the user's own code is built from a copy of `network`, if there is one.
    """
    source = checkpoint or layout.checkpoints / BEST
    trained = load_checkpoint(
        source, student=experiment.student, image=experiment.dataset.image, network=network
    )
    scores = _scores(experiment, layout, sha256_of(source))
    return exporting.export(trained, path, form=form, source=source, metrics=scores)


def _scores(experiment: Experiment, layout: RunLayout, checkpoint: str) -> dict[str, Any]:
    """Return the main figure of each protocol that has scored exactly this checkpoint."""
    scores = {}
    for name in experiment.evaluate:
        path = layout.metrics / f"{name}.json"
        if path.exists():
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["checkpoint"]["sha256"] == checkpoint:
                scores[name] = main_figure(record)
    return scores


def main_figure(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a card says of a protocol: the main figure, its interval, and the images."""
    main = record["main"]
    keys = (main, f"{main}_low", f"{main}_high", "split", "images")
    return {"main": main, **{key: record[key] for key in keys if key in record}}
