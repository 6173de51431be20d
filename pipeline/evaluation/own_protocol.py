"""A score of the user's own: a function of labelled features of train, validation and test."""

from collections.abc import Callable
from typing import Any, Literal

import torch

from pipeline.base.errors import DataError
from pipeline.base.own_code import OwnCode, require_arguments
from pipeline.evaluation.labelled_features import LabelledFeatures
from pipeline.evaluation.protocol import (
    Outcome,
    PerImage,
    ProtocolOptions,
    Setting,
    probe_splits,
    sizes,
)
from pipeline.evaluation.subjects import Subject
from pipeline.metrics.accuracy import bootstrap_interval

# Functions of three LabelledFeatures that return a score; see `OwnProtocolOptions`.
PROTOCOLS: OwnCode[Callable[..., Any]] = OwnCode("protocol", "mvmr.register_protocol")
MAIN = "score"


class OwnProtocolOptions(ProtocolOptions):
    """`kind: python:package.module:function` with `trust: true`, or a name registered before.

    The function takes the features and labels of train, validation and test. It returns one number
    in [0, 1] per labelled test image, of which the score is the mean in percent, with an interval;
    or a single number, which is the score as it is.
    """

    kind: Literal["own"] = "own"
    code: str
    trust: bool = False

    def score(self, subject: Subject, setting: Setting) -> Outcome:
        """Score one subject by the function."""
        splits = probe_splits(subject, setting.images)
        found = self._called(*splits)
        used = sizes(*splits)
        if found.ndim == 0:
            return Outcome(MAIN, {MAIN: found.item()}, used)
        interval = bootstrap_interval(found, seed=setting.seed)
        values = {
            MAIN: 100 * interval.mean,
            f"{MAIN}_low": 100 * interval.low,
            f"{MAIN}_high": 100 * interval.high,
        }
        rows = setting.images.known("test").nonzero().flatten()
        return Outcome(MAIN, values, used, per_image=PerImage(rows, found))

    def _called(
        self, train: LabelledFeatures, validation: LabelledFeatures, test: LabelledFeatures
    ) -> torch.Tensor:
        """Return a scalar, or values (N,) in [0, 1]; raises DataError for anything else."""
        function = PROTOCOLS.find(self.code, trust=self.trust)
        require_arguments(function, f"The protocol {self.code!r}", "train", "validation", "test")
        returned = function(train, validation, test)
        wanted = (
            f"The protocol {self.code!r} must return a finite number, or one in [0, 1] for each of "
            f"{len(test)} test images; found"
        )
        try:
            found = torch.as_tensor(returned).double().cpu()
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(f"{wanted} {type(returned).__name__}.") from error
        single = found.ndim == 0 and bool(found.isfinite())
        many = found.shape == (len(test),) and bool(((found >= 0) & (found <= 1)).all())
        if not single and not many:
            values = f"{found.item():g}" if found.ndim == 0 else f"values {tuple(found.shape)}"
            raise DataError(f"{wanted} {values}.")
        return found
