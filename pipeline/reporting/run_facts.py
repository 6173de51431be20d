"""The facts of one run as plain values, for its page and for comparisons."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pipeline.base.timing import Attempt, phase_from_json
from pipeline.metrics.paired import ScoredImages
from pipeline.objective.weights import as_weight, never_counts

FORMAT = 1


@dataclass(frozen=True)
class Split:
    """One split: numbers of images, of labelled and of unreadable ones; bytes of its tars.

    `left_out` holds the names of the first unreadable images. Storing `reduced` images smaller than
    their files has `saved` bytes.
    """

    images: int
    labelled: int
    invalid: int
    bytes: int
    digest: str
    left_out: Sequence[str] = ()
    reduced: int = 0
    saved: int = 0


@dataclass(frozen=True)
class Cached:
    """One stored feature: `width` numbers per image, `original_width` before reduction.

    `teacher` says whether a frozen network made it. The errors are those of dCor caused by
    storing. `images_per_second` is the measured speed of extraction, None where unknown.
    `basis_bytes` is the part of `bytes` that maps the representation to the stored numbers, such
    as the basis of a PCA. `views` of each training image are stored besides the original one.
    `whitened_errors` are those of dCor in other geometries, by the power of the deviation.
    """

    name: str
    kind: str
    teacher: bool
    width: int
    original_width: int
    stored_type: str
    images: int
    bytes: int
    bytes_per_image: int
    dcor_error: float
    dcor_error_independent: float
    digest: str
    images_per_second: float | None
    basis_bytes: int = 0
    views: int = 0
    whitened_errors: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Student:
    """The encoder: parameters of the backbone, width of its features, its checkpoint."""

    architecture: str
    parameters: int
    width: int
    checkpoint: str
    sha256: str


@dataclass(frozen=True)
class Collapse:
    """How many dimensions a space uses: RankMe, at most `limit`, and the share of dead ones."""

    rank: float
    limit: int
    dead_share: float


@dataclass(frozen=True)
class Work:
    """The work of one stage: all attempts until it was finished, empty where unknown."""

    stage: str
    attempts: tuple[Attempt, ...]

    @property
    def seconds(self) -> float | None:
        """Wall-clock seconds of all attempts, None where unknown."""
        return sum(attempt.seconds for attempt in self.attempts) if self.attempts else None


@dataclass(frozen=True)
class RunFacts:
    """One run. `config` is the resolved experiment; `metrics` are the protocols' files by name.

    `training` says which checkpoint is the best, and by which rule; `curves` has one row per
    epoch. `health` is by space: the student, the untrained encoder, pixels, stored features.
    `per_image` holds the result of each scored image, by protocol; `to_json` omits it. `int8` is
    the comparison in the card of an int8 export of this checkpoint, None without one.
    """

    name: str
    digest: str
    config: Mapping[str, Any]
    classes: Sequence[str]
    multi_label: bool
    splits: Mapping[str, Split]
    cached: Sequence[Cached]
    student: Student
    training: Mapping[str, Any]
    curves: Sequence[Mapping[str, float | None]]
    metrics: Mapping[str, Mapping[str, Any]]
    health: Mapping[str, Collapse]
    work: Sequence[Work]
    versions: Mapping[str, str]
    per_image: Mapping[str, ScoredImages] = field(default_factory=dict)
    int8: Mapping[str, Any] | None = None

    @property
    def epochs(self) -> int | None:
        """Number of training epochs, None where weights were given."""
        train = self.config["train"]
        return None if train is None else int(train["epochs"])

    @property
    def objective(self) -> Mapping[str, Mapping[str, Any]]:
        """Terms of training whose weight is not 0; empty where weights were given."""
        terms = self.config["objective"] if self.config["train"] else None
        return {
            name: term
            for name, term in (terms or {}).items()
            if not never_counts(as_weight(term["weight"]))
        }

    def to_json(self) -> dict[str, Any]:
        """Return the record that `run_from_json` reads."""
        values = asdict(replace(self, per_image={}))
        del values["per_image"]
        return {"format": FORMAT, **values}


def run_from_json(data: Mapping[str, Any]) -> RunFacts:
    """Return the run that `to_json` wrote. Raises ValueError if it is not one."""
    try:
        values = dict(data)
        if values.pop("format") != FORMAT:
            raise ValueError("another format")
        return RunFacts(
            **{
                **values,
                "splits": {name: Split(**split) for name, split in values["splits"].items()},
                "cached": tuple(Cached(**feature) for feature in values["cached"]),
                "student": Student(**values["student"]),
                "health": {name: Collapse(**h) for name, h in values["health"].items()},
                "work": tuple(_work(work) for work in values["work"]),
            }
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a run's record ({error})") from error


def _work(values: Mapping[str, Any]) -> Work:
    attempts = (
        Attempt(**{**attempt, "phases": tuple(map(phase_from_json, attempt["phases"]))})
        for attempt in values["attempts"]
    )
    return Work(values["stage"], tuple(attempts))
