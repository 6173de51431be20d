"""What determines training and evaluation, and whether a run has finished."""

import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.base.code_digest import source_digest
from pipeline.base.digests import digest, sha256_of
from pipeline.base.errors import ConfigError, DataError
from pipeline.evaluation.own_protocol import PROTOCOLS
from pipeline.features.store import StoredFeature
from pipeline.models.checkpoint import BEST, LAST, load_checkpoint
from pipeline.models.student import PRETRAINED
from pipeline.shards.manifest import Manifest
from pipeline.training.determinants import determinants
from pipeline.training.supervised import shown_targets, supervised_objective
from stages.experiment.dvc_stages import control_outs, training_outs
from stages.experiment.finished import is_kept, keep
from stages.experiment.paths import RunLayout, starting_weights
from stages.experiment.schema import Experiment

TRAIN, TRAIN_CONTROL = "train", "train with labels"  # what is kept
TUNED = "tuned.json"  # in the directory of an unfinished run


def is_finished(layout: RunLayout, key: str) -> bool:
    """Whether all outputs of training exist, and the checkpoint is of the run with this key."""
    outputs = (layout.checkpoints / LAST, layout.logs, layout.curves, layout.training_metrics)
    best = layout.checkpoints / BEST
    if not best.exists() or not all(path.exists() for path in outputs):
        return False
    return load_checkpoint(best).about.get("digest") == key


def keep_training(layout: RunLayout) -> None:
    """Keep the finished training that stands in the run's outputs, whoever put it there."""
    best = layout.checkpoints / BEST
    key = load_checkpoint(best).about.get("digest") if best.exists() else None
    if key and not is_kept(key, layout) and is_finished(layout, key):
        keep(key, layout, training_outs(layout), what=TRAIN)
    control = layout.supervised
    key = load_checkpoint(control).about.get("digest") if control.exists() else None
    if key and not is_kept(key, layout) and is_control_finished(layout, key):
        keep(key, layout, control_outs(layout), what=TRAIN_CONTROL)


def run_key(
    experiment: Experiment,
    *,
    tuned: Iterable[str],
    manifests: Sequence[Manifest],
    targets: Mapping[str, StoredFeature],
) -> str:
    """Return the SHA-256 of everything that determines a training run.

    That is its sections, the options found by trial (`tuned`), the manifests of train and
    validation, the stored targets, the weights that it starts from, and code of the user's own.
    """
    run = determinants(
        seed=experiment.seed,
        student=experiment.student,
        objective=experiment.objective,
        train=experiment.train,
        image=experiment.dataset.image,
        shards={manifest.split: manifest.digest for manifest in manifests},
        targets=targets,
        weights=given_weights(experiment),
    )
    options = {name: run.pop(name) for name in ("seed", "student", "objective", "train", "image")}
    sections, shards = {"name": experiment.name, **options}, [*run.pop("shards").values()]
    return digest({**run, "sections": sections, "shards": shards, "tuned": sorted(tuned)})


def control_key(
    experiment: Experiment,
    *,
    tuned: Iterable[str],
    manifests: Sequence[Manifest],
    targets: Mapping[str, StoredFeature],
) -> str:
    """Return that of the control trained with labels, from the arguments of `run_key`.

    It depends on the objective and its targets only in so far as they decide what is shown.
    """
    if experiment.objective is None or experiment.train is None:
        raise ConfigError("A control is trained beside a student: the experiment trains none.")
    labels = supervised_objective(experiment.objective, experiment.train)
    own = experiment.model_copy(update={"objective": labels})
    shown = shown_targets(targets, experiment.train)
    return digest(["control", run_key(own, tuned=tuned, manifests=manifests, targets=shown)])


def is_control_finished(layout: RunLayout, key: str) -> bool:
    """Whether the outputs of the control trained with labels exist, and are of this key."""
    if not layout.supervised.exists() or not layout.supervised_logs.exists():
        return False
    return load_checkpoint(layout.supervised).about.get("digest") == key


def scored_control(experiment: Experiment, layout: RunLayout) -> Path | None:
    """Return the checkpoint of the control trained with labels, None if none is asked for.

    Raises DataError if it is not there.
    """
    if experiment.train is None or not experiment.train.supervised_control:
        return None
    if not layout.supervised.exists():
        raise DataError(
            f"{layout.supervised}, the control with labels, is missing: run `mvmr train`, which "
            "trains what is missing, or set train.supervised_control to false."
        )
    return layout.supervised


def evaluation_key(
    experiment: Experiment,
    provenance: Mapping[str, Any],
    *,
    tuned: Iterable[str],
    manifests: Iterable[Manifest],
    features: Mapping[str, StoredFeature],
) -> str:
    """Return the SHA-256 of everything that determines the scores of one protocol.

    That is what its record says (`provenance`), the options found by trial (`tuned`), all images
    and features, how the student sees images, the files that the protocol's options name, and a
    protocol's code if it is of the user's own.
    """
    protocol, own = provenance["protocol"], {"name", "seed", "student"}
    named = [Path(value) for value in protocol.values() if isinstance(value, str)]
    code = protocol.get("code")
    return digest(
        {
            **({code: source_digest(PROTOCOLS.find(code, trust=True))} if code else {}),
            "protocol": protocol,
            "files": {str(path): sha256_of(path) for path in named if path.is_file()},
            "checkpoint": provenance["checkpoint"]["sha256"],
            **({"supervised": provenance["supervised"]} if "supervised" in provenance else {}),
            "experiment": experiment.model_dump(mode="json", include=own),
            "image": experiment.dataset.image.model_dump(mode="json"),
            "tuned": sorted(tuned),
            "shards": sorted(manifest.digest for manifest in manifests),
            "features": {name: feature.digest for name, feature in features.items()},
            "version": version("mvmr"),
        }
    )


def tuned_values(work: Path) -> dict[str, Any]:
    """Return the options that an unfinished run has found by trying, if any."""
    record = work / TUNED
    if not record.exists():
        return {}
    found: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
    return found


def given_weights(experiment: Experiment) -> Path | None:
    """Return the checkpoint that training starts from, if any."""
    name = experiment.student.weights
    return None if name in (None, PRETRAINED) else starting_weights(name)
