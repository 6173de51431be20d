"""Every protocol: the student's main figure with its interval, beside the same of each control."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.reporting.formats import number, word
from pipeline.reporting.published import Published, published_for
from pipeline.reporting.run import Run
from pipeline.reporting.sample import STUDENT, UNTRAINED

# What a protocol asks, by kind, in a sentence for those who do not know it.
ASKS = {
    "linear": "How well does a linear classifier do on the frozen features?",
    "online": "How well does the classifier do that was trained beside the encoder?",
    "knn": "How well do the nearest training images predict a class, without any training?",
    "semi_supervised": "How well does the encoder do after fine-tuning on few labels?",
    "voc07": "How well do linear classifiers find the objects in an image?",
    "zero_shot": "How well do the teacher's text prompts name an image, without a label?",
    "retrieval": "Is what lies close by really similar?",
}
ASKS_AGREEMENT = "Do this space and the stored feature find the same images similar?"
FIGURES = {"top1": "top-1 accuracy", "map": "mean average precision"}
UNITLESS = ("effective_rank",)
CONTROLS = {
    STUDENT: "student",
    UNTRAINED: "the same encoder, untrained",
    "pixels": "raw pixels",
}


@dataclass(frozen=True)
class Score:
    """One subject's main figure; `low` and `high` bound its 95 % interval where there is one."""

    subject: str
    label: str
    value: float
    low: float | None
    high: float | None

    def overlaps(self, other: "Score") -> bool | None:
        """Whether both intervals have a value in common, None where one is missing."""
        if None in (self.low, self.high, other.low, other.high):
            return None
        return bool(self.low <= other.high and other.low <= self.high)  # type: ignore[operator]


@dataclass(frozen=True)
class Protocol:
    """One protocol: `scores` has the student first; `table` holds all numbers of all subjects."""

    name: str
    kind: str
    asks: str
    figure: str
    unit: str
    split: str
    images: Mapping[str, int]
    scores: tuple[Score, ...]
    published: Published | None
    published_value: float | None
    heads: tuple[str, ...]
    table: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def student(self) -> Score:
        """The student's score."""
        return self.scores[0]

    def of(self, subject: str) -> Score | None:
        """Return the score of a subject, None where it has none."""
        return next((score for score in self.scores if score.subject == subject), None)

    @property
    def span(self) -> tuple[float, float]:
        """The range of an axis that holds all scores with their intervals."""
        values = [v for s in self.scores for v in (s.value, s.low, s.high) if v is not None]
        values += [] if self.published_value is None else [self.published_value]
        margin = max(0.06 * (max(values) - min(values)), 0.5)
        most = 100.0 if self.unit == "%" else max(values) + margin
        return max(0.0, min(values) - margin), min(most, max(values) + margin)

    def place(self, value: float) -> float:
        """Return where a value lies on that axis, in percent of its length."""
        low, high = self.span
        return round(100 * (value - low) / (high - low), 2)


def protocols(run: Run) -> tuple[Protocol, ...]:
    """Return the protocols of a run, in the order of its config."""
    published = published_for(run.name, run.student.architecture)
    features = {feature.name: feature.teacher for feature in run.cached}
    return tuple(
        _protocol(name, run.metrics[name], published.get(name), features)
        for name in run.config["evaluate"]
        if name in run.metrics
    )


def _protocol(
    name: str,
    metrics: Mapping[str, Any],
    published: Published | None,
    features: Mapping[str, bool],
) -> Protocol:
    main = metrics["main"]
    subjects = {STUDENT: metrics, **metrics["controls"]}
    kind = metrics["protocol"]["kind"]
    heads = list(dict.fromkeys(head for v in subjects.values() for head, _ in _numbers(v)))
    rows = {subject: dict(_numbers(values)) for subject, values in subjects.items()}
    return Protocol(
        name=name,
        kind=kind,
        asks=ASKS_AGREEMENT if main.startswith("agreement") else ASKS.get(kind, ""),
        figure=FIGURES.get(main, word(main)),
        unit="" if main in UNITLESS else "%",
        split=metrics["split"],
        images=metrics["images"],
        scores=tuple(
            _score(subject, values, main, features)
            for subject, values in subjects.items()
            if main in values
        ),
        published=published,
        published_value=published.values.get(main) if published else None,
        heads=tuple(word(head) for head in heads),
        table=tuple(
            (_label(subject, features), tuple(rows[subject].get(head, "") for head in heads))
            for subject in subjects
        ),
    )


def _score(
    subject: str, values: Mapping[str, Any], main: str, features: Mapping[str, bool]
) -> Score:
    low, high = values.get(f"{main}_low"), values.get(f"{main}_high")
    return Score(subject, _label(subject, features), values[main], low, high)


def _label(subject: str, features: Mapping[str, bool]) -> str:
    if subject in features:
        return f"{subject}, {'teacher' if features[subject] else 'cached'}"
    return CONTROLS.get(subject, subject)


def _numbers(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the numbers of a subject, those beside a reference with its name."""
    for name, value in values.items():
        if name == "seed":
            continue
        if isinstance(value, bool):
            yield name, "yes" if value else "no"
        elif isinstance(value, int | float):
            yield name, number(value)
        elif name.startswith("with_"):
            for inner, nested in value.items():
                yield f"{inner} {name}", number(nested)
