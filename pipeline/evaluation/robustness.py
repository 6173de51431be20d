"""How well features survive shifts, rotations, other scales and noise.

A classifier is fitted on features of unchanged training images, chosen on unchanged validation
images, and scores test images as they are and transformed. Every subject sees the same pixels:
features that are stored are computed anew, as they were stored.
"""

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from pipeline.evaluation.knn import KnnOptions, knn_probe
from pipeline.evaluation.labelled_features import LabelledFeatures, class_indices
from pipeline.evaluation.linear import LinearOptions, linear_probe
from pipeline.evaluation.protocol import (
    Outcome,
    PerImage,
    ProtocolOptions,
    Setting,
    Values,
    probe_splits,
    sizes,
)
from pipeline.evaluation.subjects import Embed, Subject
from pipeline.images.transformations import Transformation
from pipeline.metrics.accuracy import bootstrap_interval
from pipeline.metrics.neighbours import nearest, vote

Splits = tuple[LabelledFeatures, LabelledFeatures, LabelledFeatures]
Share = Annotated[float, Field(gt=0, lt=1)]
Degrees = Annotated[float, Field(gt=0, le=180)]
Factor = Annotated[float, Field(gt=0)]


class RobustnessOptions(ProtocolOptions):
    """`evaluate.<name>` of kind robustness.

    `classifier` is fitted with the defaults of its own protocol. `shifts` are shares of the side,
    `rotations` degrees, `scales` factors, `noises` deviations where black is 0 and white 1;
    `pipeline/images/transformations.py` has the details.
    """

    kind: Literal["robustness"] = "robustness"
    classifier: Literal["linear", "knn"] = "linear"
    shifts: Annotated[tuple[Share, ...], Field(strict=False)] = (0.1, 0.2)
    rotations: Annotated[tuple[Degrees, ...], Field(strict=False)] = (15.0, 30.0)
    scales: Annotated[tuple[Factor, ...], Field(strict=False)] = (0.8, 1.25)
    noises: Annotated[tuple[Share, ...], Field(strict=False)] = (0.1, 0.2)

    @model_validator(mode="after")
    def _transforms(self) -> "RobustnessOptions":
        if not self.transformations:
            raise ValueError("name at least one of shifts, rotations, scales and noises")
        return self

    @property
    def transformations(self) -> list[Transformation]:
        """All transformations, in the order of the options."""
        return [
            *(Transformation("shift", share) for share in self.shifts),
            *(Transformation("rotation", degrees) for degrees in self.rotations),
            *(Transformation("scale", factor) for factor in self.scales),
            *(Transformation("noise", deviation) for deviation in self.noises),
        ]

    def score(self, subject: Subject, setting: Setting) -> Outcome:
        """Score one subject; the main figure is the mean accuracy under all transformations.

        Features that cannot be computed anew have only the accuracy on unchanged images.
        """
        splits = probe_splits(subject, setting.images)
        predict, values = self._fitted(splits, setting)
        labels = splits[2].labels
        values["top1"] = 100 * (predict(splits[2].features) == labels).double().mean().item()
        images = sizes(*splits)
        if subject.of_views is None:
            return Outcome("top1", values, images)
        known = setting.images.known("test")
        features = self._transformed(subject.of_views, setting)
        hits = torch.stack([(predict(own[known]) == labels).double() for own in features])
        shares = hits.mean(dim=0)
        interval = bootstrap_interval(shares, seed=setting.seed)
        bounds = {"": interval.mean, "_low": interval.low, "_high": interval.high}
        each = zip(self.transformations, hits.mean(dim=1).tolist(), strict=True)
        return Outcome(
            main="transformed_top1",
            values={
                **{f"transformed_top1{end}": 100 * value for end, value in bounds.items()},
                **{f"top1_{transformation.name}": 100 * share for transformation, share in each},
                **values,
            },
            images=images,
            chance=100 * labels.bincount().max().item() / len(labels),
            per_image=PerImage(known.nonzero().flatten(), shares),
        )

    def _fitted(
        self, splits: Splits, setting: Setting
    ) -> tuple[Callable[[Tensor], Tensor], Values]:
        """Return a function from features (N, D) to labels (N,), and what was chosen for it."""
        if self.classifier == "linear":
            fitted = linear_probe(*splits, options=LinearOptions(), device=setting.device)
            classifier = fitted.classifier
            return lambda x: classifier.classes[classifier.logits(x).argmax(1)], {"l2": fitted.l2}
        found, train = knn_probe(*splits, options=KnnOptions(), device=setting.device), splits[0]
        bank = class_indices(train.labels, found.classes)

        def neighbours_say(features: Tensor) -> Tensor:
            near = nearest(features, train.features, k=found.k, device=setting.device)
            count = len(found.classes)
            votes = vote(near, bank, classes=count, k=found.k, temperature=found.temperature)
            return found.classes[votes.argmax(1)]

        return neighbours_say, {"k": found.k, "temperature": found.temperature}

    def _transformed(self, embed: Embed, setting: Setting) -> list[Tensor]:
        """Return the features (N, D) of all test images under each transformation."""
        changes, images = self.transformations, setting.images
        parts: list[list[Tensor]] = [[] for _ in changes]
        setting.progress.start("transform test images", images.count("test"), "images")
        first = 0
        for views in images.batches("test"):
            for change, own in zip(changes, parts, strict=True):
                own.append(embed(change(views, first=first, seed=setting.seed)).cpu())
            first += len(views)
            setting.progress.advance(len(views))
        return [torch.cat(own) for own in parts]
