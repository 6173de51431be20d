"""One experiment file: the sections, each declared by the part that uses it, put together.

`load` reports everything that is wrong with a file at once, each with its dotted path.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StringConstraints, ValidationError

from pipeline.config import Options, digest, override, problems, read_yaml
from pipeline.datasets.split import SplitOptions
from pipeline.datasets.table import AnySource
from pipeline.encoders import StudentOptions
from pipeline.errors import ConfigError, unknown_name
from pipeline.evaluation.table import AnyProtocol
from pipeline.evaluation.zero_shot import ZeroShotOptions, teacher_of
from pipeline.images import ImageOptions
from pipeline.objective import ObjectiveOptions, representations_of
from pipeline.representations.base import RepresentationOptions
from pipeline.representations.table import KINDS, AnyRepresentation
from pipeline.shards import ShardOptions
from pipeline.training.options import TrainOptions

# Representations that are computed for every batch when the objective names them and the store
# does not hold them: they cost nothing, or are random.
LIVE = ("pixels", "augmented")

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


def _kind_from_name(section: Any) -> Any:
    """Let `scattering: {J: 2}` stand for `scattering: {kind: scattering, J: 2}`."""
    if not isinstance(section, Mapping):
        return section
    return {
        name: {"kind": name, **entry} if isinstance(entry, Mapping) else entry
        for name, entry in section.items()
    }


def _none(section: Any) -> Any:
    """Read `none`; an empty section is more likely a slip than a wish."""
    if section is None:
        raise ValueError("the section is empty; write none to do without it")
    return None if section == "none" else section


class DatasetOptions(Options):
    """`dataset`: which images, how they are cut and sharded, how the student sees them."""

    name: Name
    source: AnySource
    split: SplitOptions
    shards: ShardOptions
    image: ImageOptions


class Experiment(Options):
    """A whole file.

    `train: none` takes `student.weights` as they are, for evaluation; it needs no objective.
    """

    name: Name
    seed: Annotated[int, Field(ge=0)]
    dataset: DatasetOptions
    features: Annotated[dict[Name, AnyRepresentation], BeforeValidator(_kind_from_name)]
    student: StudentOptions
    objective: Annotated[ObjectiveOptions | None, BeforeValidator(_none)]
    train: Annotated[TrainOptions | None, BeforeValidator(_none)]
    evaluate: Annotated[dict[Name, AnyProtocol], BeforeValidator(_kind_from_name)]

    def digest(self) -> str:
        """Return the SHA-256 of the resolved experiment."""
        return digest(self.model_dump(mode="json"))

    def training_sections(self) -> dict[str, Any]:
        """Return what training depends on in this file; shards and features come on top."""
        own = {"name", "seed", "student", "objective", "train"}
        image = self.dataset.image.model_dump(mode="json")
        return {**self.model_dump(mode="json", include=own), "image": image}

    def targets(self) -> dict[str, RepresentationOptions]:
        """Return the stored features that the objective names."""
        named = self._representations()
        return {name: self.features[name] for name in named if name in self.features}

    def live(self) -> dict[str, RepresentationOptions]:
        """Return the representations that the objective names and the store does not hold."""
        named = self._representations()
        return {name: self._live(name) for name in named if name not in self.features}

    def _representations(self) -> tuple[str, ...]:
        return representations_of(self.objective) if self.objective and self.train else ()

    def _live(self, name: str) -> RepresentationOptions:
        if name == "augmented" and self.train:  # drawn by the same policy as the views
            return KINDS[name].model_validate(
                {"kind": name, "augmentation": self.train.augmentation.model_dump()}
            )
        return KINDS[name].model_validate({"kind": name})


def load(path: Path, assignments: Sequence[str] = ()) -> Experiment:
    """Read and check an experiment file, with overrides `dotted.key=value` applied.

    Raises ConfigError that lists every problem.
    """
    data = override(read_yaml(path), assignments)
    try:
        experiment = Experiment.model_validate(data)
    except ValidationError as error:
        raise _error(path, [*problems(error, Experiment), *_misnamed(data)]) from None
    wrong = [*_misnamed(data), *_unstorable(experiment), *_idle(experiment)]
    wrong += _cannot_read(experiment)
    if wrong:
        raise _error(path, wrong)
    return experiment


def _error(path: Path, lines: Sequence[str]) -> ConfigError:
    if len(lines) == 1:
        return ConfigError(f"{path}: {lines[0]}")
    return ConfigError("\n  ".join([f"{path} has {len(lines)} problems:", *lines]))


def _idle(experiment: Experiment) -> Iterator[str]:
    if experiment.train is None and experiment.student.weights is None:
        yield "student.weights: train is none, so this must name a checkpoint file or a run."
    if experiment.train is not None and experiment.objective is None:
        yield "objective: training needs one; only with train: none may it be none."


def _cannot_read(experiment: Experiment) -> Iterator[str]:
    for name, options in experiment.evaluate.items():
        if isinstance(options, ZeroShotOptions):
            try:
                teacher_of(options, experiment.features)
            except ConfigError as error:
                yield f"evaluate.{name}.teacher: {error}"


def _unstorable(experiment: Experiment) -> Iterator[str]:
    for name, options in experiment.features.items():
        if not options.storable:
            yield (
                f"features.{name}: {options.kind!r} is random and cannot be stored; name it in the "
                "objective alone, where it is computed for every batch."
            )


def _misnamed(data: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong between sections, as far as they can be read."""
    features, objective = data.get("features"), data.get("objective")
    if not isinstance(features, Mapping) or not isinstance(objective, Mapping):
        return
    for name, term in objective.items():
        if not isinstance(term, Mapping) or term.get("kind", name) not in (
            "dependence",
            "regression",
        ):
            continue
        representation = term.get("representation", name)
        if representation not in features and representation not in LIVE:
            yield (
                f"objective.{name}: "
                f"{unknown_name('representation', str(representation), [*features, *LIVE])} "
                "A representation is named under `features`, or is one of those computed live."
            )
