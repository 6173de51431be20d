"""All protocols, by their kind in an experiment file. To add one, add a file and a row here.

A protocol's options list the values that it chooses from; their `score` scores one subject.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, get_args

from pydantic import Field

from pipeline.base.errors import ConfigError
from pipeline.evaluation.knn import KnnOptions
from pipeline.evaluation.linear import LinearOptions
from pipeline.evaluation.online import OnlineOptions
from pipeline.evaluation.own_protocol import OwnProtocolOptions
from pipeline.evaluation.protocol import Outcome, ProtocolOptions, Setting
from pipeline.evaluation.retrieval import RetrievalOptions
from pipeline.evaluation.robustness import RobustnessOptions
from pipeline.evaluation.semi_supervised import SemiSupervisedOptions
from pipeline.evaluation.subjects import Subject
from pipeline.evaluation.voc07_protocol import MultiLabelOptions
from pipeline.evaluation.zero_shot import ZeroShotOptions

AnyProtocol = Annotated[
    LinearOptions
    | OnlineOptions
    | KnnOptions
    | SemiSupervisedOptions
    | MultiLabelOptions
    | ZeroShotOptions
    | RetrievalOptions
    | RobustnessOptions
    | OwnProtocolOptions,
    Field(discriminator="kind"),
]

# The same options, by kind.
KINDS: dict[str, type[ProtocolOptions]] = {
    options.model_fields["kind"].default: options for options in get_args(get_args(AnyProtocol)[0])
}


def score_all(
    protocol: ProtocolOptions, subjects: Sequence[Subject], setting: Setting
) -> dict[str, Outcome]:
    """Return outcomes by subject: the student's first, then the controls' if the protocol has them.

    Raises DataError if the images lack what the protocol needs.
    """
    scored = subjects if protocol.has_controls else subjects[:1]
    return {subject.name: protocol.score(subject, setting) for subject in scored}


def require_something_to_find(protocols: Mapping[str, ProtocolOptions]) -> None:
    """Raise ConfigError unless one of the protocols fits by gradient descent."""
    if not any(protocol.descends for protocol in protocols.values()):
        raise ConfigError(
            f"None of the protocols {', '.join(protocols)} has a learning rate or batches to find: "
            "that is for semi_supervised, and for linear and voc07 with an augmentation."
        )
