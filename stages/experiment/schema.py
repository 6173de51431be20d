"""The schema of an experiment file, assembled from sections that the pipeline's parts declare.

`load` reports all problems of a file at once, each with its dotted path.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StringConstraints, ValidationError, model_validator

from pipeline.base.digests import digest
from pipeline.base.errors import ConfigError
from pipeline.base.options import Options, added, problems
from pipeline.base.own_code import PREFIX, OwnCode
from pipeline.base.timm_catalogue import other_activation, takes_one_size, unknown_backbone
from pipeline.base.yaml_file import override, read_yaml
from pipeline.datasets.sources import AnySource
from pipeline.datasets.split import SplitOptions
from pipeline.evaluation.own_protocol import PROTOCOLS
from pipeline.evaluation.protocols import AnyProtocol
from pipeline.evaluation.zero_shot import ZeroShotOptions, teacher_of
from pipeline.images.original_view import ImageOptions
from pipeline.images.stored_views import StoredViewOptions
from pipeline.models.student import PRETRAINED, TIMM_PREFIX, StudentOptions
from pipeline.objective.terms import (
    ObjectiveOptions,
    active,
    compares_views,
    least_rows,
    representations_of,
)
from pipeline.representations.kinds import KINDS, AnyRepresentation
from pipeline.representations.own_representation import REPRESENTATIONS
from pipeline.representations.representation import RepresentationOptions
from pipeline.shards.writing import ShardOptions
from pipeline.training.step_views import view_complaints, without_a_target
from pipeline.training.train_options import TrainOptions
from stages.experiment.config_problems import complaint, unknown_representations, unstored_targets

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


def _kind_from_name(own: OwnCode[Any]) -> BeforeValidator:
    """Let `scattering: {J: 2}` stand for `scattering: {kind: scattering, J: 2}`.

    A kind that names code of the user's own becomes `kind: own`.
    """

    def completed(section: Any) -> Any:
        if not isinstance(section, Mapping):
            return section
        return {
            name: own.named({"kind": name, **entry}) if isinstance(entry, Mapping) else entry
            for name, entry in section.items()
        }

    return BeforeValidator(completed)


def _none(section: Any) -> Any:
    """Turn `none` into None. Raises ValueError for an empty section, most likely a mistake."""
    if section is None:
        raise ValueError("the section is empty; write none to do without it")
    return None if section == "none" else section


FeatureSection = Annotated[dict[Name, AnyRepresentation], _kind_from_name(REPRESENTATIONS)]
ProtocolSection = Annotated[dict[Name, AnyProtocol], _kind_from_name(PROTOCOLS)]


class PackingOptions(Options):
    """The images of a data set, and how they are split and sharded."""

    name: Name
    source: AnySource
    split: SplitOptions
    shards: ShardOptions


class DatasetOptions(PackingOptions):
    """`dataset`: images as they are packed, and how the student sees them.

    `views` are what `views: true` of a feature stands for.
    """

    image: ImageOptions
    views: StoredViewOptions | None = added(None)


class Experiment(Options):
    """A whole experiment file.

    `train: none` evaluates `student.weights` as they are; it needs no objective, and ignores one
    without terms.
    """

    name: Name
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    dataset: DatasetOptions
    features: FeatureSection
    student: StudentOptions
    objective: Annotated[ObjectiveOptions | None, BeforeValidator(_none)]
    train: Annotated[TrainOptions | None, BeforeValidator(_none)]
    evaluate: ProtocolSection

    @model_validator(mode="before")
    @classmethod
    def _without_objective(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and data.get("train") == "none" and not data.get("objective"):
            return {**data, "objective": "none"}
        return data

    @model_validator(mode="before")
    @classmethod
    def _views_of_the_dataset(cls, data: Any) -> Any:
        """Let `views: true` of a feature stand for `dataset.views`, and `false` for none."""
        features = data.get("features") if isinstance(data, Mapping) else None
        if not isinstance(features, Mapping):
            return data
        views = data["dataset"].get("views") if isinstance(data.get("dataset"), Mapping) else None
        asked = {
            name: entry
            for name, entry in features.items()
            if isinstance(entry, Mapping) and isinstance(entry.get("views"), bool)
        }
        if views is None and any(entry["views"] for entry in asked.values()):
            name = next(name for name, entry in asked.items() if entry["views"])
            raise ValueError(
                f"features.{name}.views: true needs dataset.views, which says how many views are "
                "stored and how they are drawn, for example dataset.views: {count: 8}"
            )
        resolved = {n: {**e, "views": views if e["views"] else None} for n, e in asked.items()}
        return {**data, "features": {**features, **resolved}}

    def digest(self) -> str:
        """Return the SHA-256 of the resolved experiment."""
        return digest(self.model_dump(mode="json"))

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
        if name == "augmented" and self.train:  # uses the augmentation of the views
            return KINDS[name].model_validate(
                {"kind": name, "augmentation": self.train.augmentation.model_dump()}
            )
        return KINDS[name].model_validate({"kind": name})


def load(path: Path, assignments: Sequence[str] = ()) -> Experiment:
    """Read and check an experiment file, with overrides `dotted.key=value` applied.

    Raises ConfigError that lists every problem and says which ones come from overrides.
    """
    data = read_yaml(path)
    experiment, wrong = _checked(override(data, assignments))
    if experiment is None:
        own = _checked(data)[1] if assignments else wrong
        raise complaint(path, wrong, own, assignments)
    return experiment


def from_sections(sections: Mapping[str, Any]) -> Experiment:
    """Check the sections of an experiment; raises ConfigError that lists every problem."""
    experiment, wrong = _checked(dict(sections))
    if experiment is None:
        raise ConfigError("\n  ".join(["The experiment has problems:", *wrong]))
    return experiment


def _checked(data: dict[str, Any]) -> tuple[Experiment | None, list[str]]:
    """Return the experiment, or None, and all its problems."""
    try:
        experiment = Experiment.model_validate(data)
    except ValidationError as error:
        return None, [*problems(error, Experiment), *unknown_representations(data)]
    wrong = [*unknown_representations(data), *_unstorable(experiment), *_idle(experiment)]
    wrong += [*_too_small(experiment), *_cannot_read(experiment)]
    wrong += [*_senseless_validation(experiment), *_views(experiment), *_untrusted(experiment)]
    wrong += unstored_targets(experiment.objective or {}, experiment.features)
    if not wrong:  # last, as it takes a second to import timm
        wrong += _wrong_backbone(experiment)
    return (None if wrong else experiment), wrong


def _wrong_backbone(experiment: Experiment) -> Iterator[str]:
    architecture, weights = experiment.student.architecture, experiment.student.weights
    if architecture.startswith(TIMM_PREFIX):
        name = architecture.removeprefix(TIMM_PREFIX)
        wrong = unknown_backbone(name)
        if wrong is None and weights == PRETRAINED:
            wrong = other_activation(name)
        if wrong:
            yield f"student.architecture: {wrong}"
        local = experiment.train.views.local if experiment.train else None
        size = experiment.dataset.image.size
        if not wrong and local and local.size != size and takes_one_size(name):
            yield (
                f"train.views.local.size: {architecture} takes images of one size, here {size} px, "
                f"and not views of {local.size} px; choose that size, a convolutional student, or "
                "no local views."
            )


def _untrusted(experiment: Experiment) -> Iterator[str]:
    """Yield one line for each piece of importable code that the file does not trust."""
    sections: dict[str, Any] = {"student": experiment.student}
    for name in ("features", "objective", "evaluate"):
        entries = getattr(experiment, name) or {}
        sections |= {f"{name}.{key}": options for key, options in entries.items()}
    for path, options in sections.items():
        code = str(getattr(options, "code", getattr(options, "architecture", "")))
        if code.startswith(PREFIX) and not options.trust:
            yield f"{path}.trust: {code!r} is code that would run; set true if you trust it."


def _idle(experiment: Experiment) -> Iterator[str]:
    if experiment.train is None and experiment.student.weights is None:
        yield "student.weights: train is none, so this must name a checkpoint file or a run."
    if experiment.train is not None and experiment.objective is None:
        yield "objective: training needs one; it may be none only with train: none."


def _senseless_validation(experiment: Experiment) -> Iterator[str]:
    if experiment.train is None or experiment.train.validate_on == "views":
        return
    terms = active(experiment.objective or {})
    comparing = [name for name, term in terms.items() if compares_views(term)]
    if comparing:
        yield (
            f"train.validate_on: {', '.join(comparing)} of the objective compares two views, which "
            "would both be the original one; use views."
        )


def _views(experiment: Experiment) -> Iterator[str]:
    train, objective = experiment.train, experiment.objective
    if train is None or objective is None:
        return
    yield from view_complaints(objective, train, experiment.dataset.image)
    viewed = [name for name, options in experiment.targets().items() if options.views is not None]
    if complaint := without_a_target(train, viewed):
        yield complaint


def _too_small(experiment: Experiment) -> Iterator[str]:
    if experiment.train is None or experiment.objective is None:
        return
    needed, rows = least_rows(experiment.objective), experiment.train.batch_size
    if rows < needed:
        yield (
            f"train.batch_size: a term of the objective needs batches of at least {needed} images; "
            f"found {rows}."
        )


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
