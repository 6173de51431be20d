"""Every protocol, by kind: its options, how it scores one subject, and whom it can score.

To add one: write its file, and add it to the union and to `PROTOCOLS`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from pipeline.config import Options
from pipeline.evaluation import (
    knn,
    linear,
    online,
    retrieval,
    semi_supervised,
    voc07,
    zero_shot,
)
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


@dataclass(frozen=True)
class Protocol:
    """How a protocol scores one subject, and whether controls can be scored the same way."""

    score: Callable[[Any, Subject, Setting], Outcome]
    has_controls: bool = True


PROTOCOLS: dict[type[Options], Protocol] = {
    linear.LinearOptions: Protocol(linear.score),
    online.OnlineOptions: Protocol(online.score, has_controls=False),
    knn.KnnOptions: Protocol(knn.score),
    semi_supervised.SemiSupervisedOptions: Protocol(semi_supervised.score),
    voc07.Voc07Options: Protocol(voc07.score),
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
