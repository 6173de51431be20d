"""Zero-shot classification by a CLIP teacher's text tower, for students of that teacher.

A ridge regression maps the student's features to the teacher's unit embeddings. It is fitted in
closed form on cached targets of the training images; its ridge is chosen by the cosine on
validation images. Neither step uses a label. A test image then gets the class with the nearest
prompts. The teacher's own embedding is classified the same way, without a map.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor

from pipeline.base.arguments import require_features, require_shape
from pipeline.base.errors import ConfigError, DataError, unknown_name
from pipeline.evaluation.protocol import Outcome, ProtocolOptions, Setting, Values, classified
from pipeline.evaluation.subjects import Subject
from pipeline.representations.representation import RepresentationOptions
from pipeline.representations.teachers.open_clip import OpenClipOptions, text_embeddings

_ROWS_AT_ONCE = 8192
TEMPERATURE = 0.01  # CLIP's own; it only scales the confidences

Templates = Annotated[tuple[str, ...], Field(strict=False, min_length=1)]


class ZeroShotOptions(ProtocolOptions):
    """`evaluate.<name>` of kind zero_shot.

    `teacher` is a stored feature of kind open_clip. A template holds one `{}` for the name of the
    class. That is the name of its folder, with spaces for underscores, or the one in `names`, a
    file with a JSON object. Each of `ridges`, relative to the mean variance of a feature, is tried.
    """

    kind: Literal["zero_shot"] = "zero_shot"
    teacher: str
    templates: Templates = ("a photo of a {}.",)
    names: Annotated[Path, Field(strict=False)] | None = None
    ridges: Annotated[
        tuple[Annotated[float, Field(gt=0)], ...], Field(strict=False, min_length=1)
    ] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)

    @field_validator("templates")
    @classmethod
    def _have_a_place(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        for template in templates:
            if template.count("{}") != 1:
                raise ValueError(f"a template holds one {{}} for the class; {template!r} does not")
        return templates

    def score(self, subject: Subject, setting: Setting) -> Outcome:
        """Classify the test images of one subject by text.

        Raises ConfigError if `teacher` is not a stored, unreduced feature of kind open_clip. Raises
        DataError if there are no class names or no labelled test images.
        """
        images = setting.images
        if images.several_classes or not images.classes:
            raise DataError("Zero-shot classification needs images with one named class each.")
        specification = teacher_of(self, setting.specifications)
        known = images.known("test")
        if subject.name == self.teacher:
            embedded, used, values = subject.of("test")[known], {}, Values()
        else:
            embedded, values = _mapped(self, subject, setting)
            used = {split: len(images.index(split)) for split in ("train", "validation")}
        prompts = class_embeddings(specification, class_names(self, images.classes), self, setting)
        shares = (F.normalize(embedded, dim=1) @ prompts.T).double().div(TEMPERATURE).softmax(dim=1)
        return classified(
            shares,
            torch.arange(len(images.classes)),
            setting,
            images={**used, "test": int(known.sum())},
            values=values,
            details={"prompts": [t.format(_readable(images.classes[0])) for t in self.templates]},
        )


class RidgeMap:
    """Map of features (N, D) to targets (N, T) of least mean squared error + ridge ||W||^2.

    Sums run over blocks in float64; the intercept is not penalised.
    """

    def __init__(self, features: Tensor, targets: Tensor) -> None:
        require_features(features)
        require_features(targets)
        require_shape(targets, "targets", (len(features), targets.shape[1]))
        self.feature_mean = features.double().mean(dim=0)
        self.target_mean = targets.double().mean(dim=0)
        width = features.shape[1]
        self._gram = torch.zeros(width, width, dtype=torch.float64)
        self._cross = torch.zeros(width, targets.shape[1], dtype=torch.float64)
        for x, y in zip(
            torch.split(features, _ROWS_AT_ONCE), torch.split(targets, _ROWS_AT_ONCE), strict=True
        ):
            centred = x.double() - self.feature_mean
            self._gram += centred.T @ centred / len(features)
            self._cross += centred.T @ (y.double() - self.target_mean) / len(features)

    def solve(self, ridge: float) -> Tensor:
        """Return W (D, T) for a ridge relative to the mean variance of a feature."""
        scale = self._gram.diagonal().mean().clamp_min(1e-12)
        penalised = self._gram + ridge * scale * torch.eye(len(self._gram), dtype=torch.float64)
        solution: Tensor = torch.linalg.solve(penalised, self._cross)
        return solution

    def apply(self, weight: Tensor, features: Tensor) -> Tensor:
        """Map features (N, D) to (N, T), float32."""
        parts = [
            ((rows.double() - self.feature_mean) @ weight + self.target_mean).float()
            for rows in torch.split(features, _ROWS_AT_ONCE)
        ]
        return torch.cat(parts)


def teacher_of(
    options: ZeroShotOptions, features: Mapping[str, RepresentationOptions]
) -> OpenClipOptions:
    """Return the options of the feature that `teacher` names.

    Raises ConfigError if there is no such feature, if it does not read text, or if it is stored
    reduced.
    """
    specification = features.get(options.teacher)
    if specification is None:
        raise ConfigError(unknown_name("feature", options.teacher, features))
    if not isinstance(specification, OpenClipOptions):
        raise ConfigError(
            f"Zero-shot needs a teacher that reads text; {options.teacher!r} is of kind "
            f"{specification.kind}, not open_clip."
        )
    if specification.reduce.model_dump(exclude_none=True):
        raise ConfigError(
            f"Zero-shot needs the teacher's whole embedding: leave `reduce` out of "
            f"features.{options.teacher}."
        )
    return specification


def class_names(options: ZeroShotOptions, classes: tuple[str, ...]) -> list[str]:
    """Return each class's name for prompts. Raises ConfigError if `names` lacks one."""
    if options.names is None:
        return [_readable(name) for name in classes]
    try:
        names: Any = json.loads(options.names.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"The names in {str(options.names)!r} cannot be read: {error}."
        ) from error
    missing = [
        c for c in classes if not isinstance(names, dict) or not isinstance(names.get(c), str)
    ]
    if missing:
        raise ConfigError(
            f"{options.names} must be a JSON object with a name for each of {len(classes)} "
            f"classes; {len(missing)} are missing, such as {missing[0]!r}."
        )
    return [names[c] for c in classes]


def class_embeddings(
    teacher: OpenClipOptions, names: list[str], options: ZeroShotOptions, setting: Setting
) -> Tensor:
    """Return one unit vector per class (K, T): the mean over templates of unit text embeddings."""
    prompts = [template.format(name) for name in names for template in options.templates]
    progress = setting.progress
    progress.start("read prompts", len(prompts), "prompts")
    unit = F.normalize(text_embeddings(teacher, prompts, progress, device=setting.device), dim=1)
    return F.normalize(unit.reshape(len(names), len(options.templates), -1).mean(dim=1), dim=1)


def _mapped(options: ZeroShotOptions, subject: Subject, setting: Setting) -> tuple[Tensor, Values]:
    teacher = setting.references[options.teacher]
    setting.images.index("validation")  # raises DataError if there are none
    targets = {s: F.normalize(teacher.of(s), dim=1) for s in ("train", "validation")}
    what = f"map {subject.name} to {options.teacher}"
    setting.progress.start(what, len(options.ridges), "fits")
    fitted = RidgeMap(subject.of("train"), targets["train"])
    tried = []
    for ridge in options.ridges:
        weight = fitted.solve(ridge)
        mapped = fitted.apply(weight, subject.of("validation"))
        cosine = F.cosine_similarity(mapped, targets["validation"]).mean().item()
        tried.append((cosine, ridge, weight))
        setting.progress.advance(1)
    cosine, ridge, weight = max(tried, key=lambda entry: entry[0])
    known = setting.images.known("test")
    embedded = fitted.apply(weight, subject.of("test")[known])
    return embedded, {"ridge": ridge, "validation_cosine": cosine}


def _readable(name: str) -> str:
    return name.replace("_", " ")
