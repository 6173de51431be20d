"""What determines a training run, and the record of it in the directory of an unfinished run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.base.atomic import write_json
from pipeline.base.code_digest import source_digest
from pipeline.base.digests import sha256_of
from pipeline.base.errors import TrainingError
from pipeline.base.own_code import OwnCode
from pipeline.base.progress import Progress
from pipeline.features.store import StoredFeature, differing
from pipeline.images.original_view import ImageOptions
from pipeline.models.own_backbone import STUDENTS
from pipeline.models.student import OWN_PREFIX, StudentOptions
from pipeline.objective.terms import OWN_TERMS, AnyTerm, OwnTerm
from pipeline.training.train_options import TrainOptions

RECORD = "run.json"


def determinants(
    *,
    seed: int,
    student: StudentOptions,
    objective: Mapping[str, AnyTerm] | None,
    train: TrainOptions | None,
    image: ImageOptions,
    shards: Mapping[str, str],
    targets: Mapping[str, StoredFeature],
    weights: Path | None,
) -> dict[str, Any]:
    """Return everything that determines a run, as a JSON value.

    The options have the names of an experiment's sections. `shards` are the digests of the images
    of train and validation, `targets` the stored ones that the objective names, and `weights` is
    the checkpoint that training starts from. Code of the user's own counts by its text. Whether a
    control is trained as well does not determine the run.
    """
    code = own_training_code(student, objective)
    return {
        **({"code": code} if code else {}),
        "seed": seed,
        "student": student.model_dump(mode="json"),
        "objective": objective
        and {name: term.model_dump(mode="json") for name, term in objective.items()},
        "train": train and train.model_dump(mode="json", exclude={"supervised_control"}),
        "image": image.model_dump(mode="json"),
        "shards": dict(shards),
        "targets": {name: feature.digest for name, feature in targets.items()},
        "weights": sha256_of(weights) if weights and weights.exists() else None,
    }


def own_training_code(
    student: StudentOptions, objective: Mapping[str, AnyTerm] | None
) -> dict[str, str]:
    """Return a digest of each piece of the user's own code that training runs, by its name."""
    named: list[tuple[OwnCode[Any], str, bool]] = []
    if student.is_own:
        named.append((STUDENTS, student.architecture.removeprefix(OWN_PREFIX), student.trust))
    own = (term for term in (objective or {}).values() if isinstance(term, OwnTerm))
    named += [(OWN_TERMS, term.code, term.trust) for term in own]
    return {name: source_digest(table.find(name, trust=trust)) for table, name, trust in named}


def claim(work: Path, run: Mapping[str, Any], progress: Progress, *, writes: bool) -> None:
    """Record in `work` what determines the run that is to be trained there.

    If `writes` is false, it only compares, as for all processes but the first. Raises
    TrainingError, naming each difference, if the directory holds another run. What a version that
    kept no record has begun there is continued.
    """
    record = work / RECORD
    if record.exists():
        differences = "; ".join(differing(json.loads(json.dumps(run)), _read(record)))
        if differences:
            raise TrainingError(
                f"{work} holds another run: {differences}. Train in another directory, or remove "
                "this one to train anew."
            )
        return
    if any(work.glob("*.ckpt")):
        progress.note(f"{work} does not say what was begun in it; it is continued.")
    if writes:
        write_json(record, run)


def _read(record: Path) -> Any:
    try:
        return json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingError(
            f"{record} cannot be read ({error}): remove {record.parent} to train anew."
        ) from error
