"""Every protocol, by kind: its options, how it scores one subject, and whom it can score.

To add one: write its file, and add it to the union and to `PROTOCOLS`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from pipeline.config import Options
from pipeline.errors import ConfigError
from pipeline.evaluation import (
    knn,
    linear,
    online,
    retrieval,
    semi_supervised,
    voc07,
    zero_shot,
)
from pipeline.evaluation.fit_options import LinearFitOptions
from pipeline.evaluation.setting import Outcome, Setting
from pipeline.evaluation.subjects import Subject

AnyProtocol = Annotated[
    linear.LinearOptions
    | online.OnlineOptions
    | knn.KnnOptions
    | semi_supervised.SemiSupervisedOptions
    | voc07.Voc07Options
    | zero_shot.ZeroShotOptions
    | retrieval.RetrievalOptions,
    Field(discriminator="kind"),
]


def _never(_: Options) -> bool:
    return False


def _always(_: Options) -> bool:
    return True


def _on_augmented_views(options: LinearFitOptions) -> bool:
    return options.augmentation is not None


@dataclass(frozen=True)
class Protocol:
    """How a protocol scores one subject, and whether controls can be scored the same way.

    `descends` says of its options whether a fit has a learning rate and batches.
    """

    score: Callable[[Any, Subject, Setting], Outcome]
    has_controls: bool = True
    descends: Callable[[Any], bool] = _never


PROTOCOLS: dict[type[Options], Protocol] = {
    linear.LinearOptions: Protocol(linear.score, descends=_on_augmented_views),
    online.OnlineOptions: Protocol(online.score, has_controls=False),
    knn.KnnOptions: Protocol(knn.score),
    semi_supervised.SemiSupervisedOptions: Protocol(semi_supervised.score, descends=_always),
    voc07.Voc07Options: Protocol(voc07.score, descends=_on_augmented_views),
    zero_shot.ZeroShotOptions: Protocol(zero_shot.score),
    retrieval.RetrievalOptions: Protocol(retrieval.score),
}


def score_all(
    options: AnyProtocol, subjects: Sequence[Subject], setting: Setting
) -> dict[str, Outcome]:
    """Return the outcome of the first subject, the student, then those of the controls.

    Raises DataError if the images lack what the protocol needs.
    """
    protocol = PROTOCOLS[type(options)]
    scored = subjects if protocol.has_controls else subjects[:1]
    return {subject.name: protocol.score(options, subject, setting) for subject in scored}


def require_something_to_find(protocols: Mapping[str, AnyProtocol]) -> None:
    """Raise ConfigError unless one of the protocols fits by gradient descent."""
    if not any(PROTOCOLS[type(options)].descends(options) for options in protocols.values()):
        raise ConfigError(
            f"None of the protocols {', '.join(protocols)} has a learning rate or batches to find: "
            "that is for semi_supervised, and for linear and voc07 with an augmentation."
        )
