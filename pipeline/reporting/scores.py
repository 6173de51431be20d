"""Every protocol: the main figure of the student and of each control, with its interval."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.base.text import spoken
from pipeline.evaluation.protocol import BALANCED, SIZES
from pipeline.evaluation.record import leading
from pipeline.metrics.paired import Paired, ScoredImages, paired
from pipeline.reporting.comparison_texts import Standing, signed, standing_of
from pipeline.reporting.formats import number
from pipeline.reporting.protocol_texts import UNITLESS, asks, chance_of, figure_of
from pipeline.reporting.published import Published, published_for
from pipeline.reporting.run_facts import RunFacts
from pipeline.reporting.sample import PIXELS, START, STUDENT, SUPERVISED, UNTRAINED

LABELS = {
    STUDENT: "student",
    START: "the same encoder, before training",
    SUPERVISED: "the same encoder, trained with labels",
    UNTRAINED: "the same encoder, untrained",
    PIXELS: "raw pixels",
}

Role = Literal["student", "start", "supervised", "untrained", "pixels", "feature", "teacher"]


@dataclass(frozen=True)
class Score:
    """One subject's main figure; `low` and `high` bound its 95 % interval where there is one.

    `lead` is the student's lead over the subject on the same images, where known.
    """

    subject: str
    role: Role
    value: float
    low: float | None
    high: float | None
    lead: Paired | None = None

    @property
    def label(self) -> str:
        """Its name in a table."""
        if self.role in ("feature", "teacher"):
            word = "teacher" if self.role == "teacher" else "stored"
            return word if self.subject == word else f"{self.subject}, {word}"
        return LABELS[self.role]

    @property
    def named(self) -> str:
        """Its name in a sentence."""
        if self.role in ("feature", "teacher"):
            word = "teacher" if self.role == "teacher" else "stored"
            return f"the {word}" if self.subject == word else f"the {word} {self.subject}"
        return self.label.replace(",", "")

    @property
    def ahead_by(self) -> str:
        """The student's lead with its interval; empty where unknown."""
        return "" if self.lead is None else signed(self.lead)

    def overlaps(self, other: "Score") -> bool | None:
        """Return whether the two intervals overlap, None where one is missing."""
        if None in (self.low, self.high, other.low, other.high):
            return None
        return bool(self.low <= other.high and other.low <= self.high)  # type: ignore[operator]


@dataclass(frozen=True)
class Protocol:
    """One protocol: `scores` has the student first; `table` holds all numbers of all subjects.

    `main` is balanced accuracy where classes are of unequal size; `class_sizes` has their number,
    and the images of the largest and the smallest, and `unbalanced` is the student's main figure
    of the protocol, in which images count alike. `chance` is the main figure of a guess
    without looking at images, where known; `chance_says` describes that guess. `options` are those
    of the protocol.
    """

    name: str
    kind: str
    asks: str
    main: str
    figure: str
    unit: str
    chance: float | None
    chance_says: str
    options: Mapping[str, Any]
    split: str
    images: Mapping[str, int]
    scores: tuple[Score, ...]
    published: Published | None
    published_value: float | None
    heads: tuple[str, ...]
    table: tuple[tuple[str, tuple[str, ...]], ...]
    class_sizes: Mapping[str, int] | None = None
    unbalanced: float | None = None

    @property
    def student(self) -> Score:
        """The student's score."""
        return self.scores[0]

    def of(self, subject: str) -> Score | None:
        """Return the score of a subject, None where it has none."""
        return next((score for score in self.scores if score.subject == subject), None)

    @property
    def before(self) -> Score | None:
        """The score of the encoder before training: with given weights, else untrained."""
        return self.of(START) or self.of(UNTRAINED)

    def standing(self, score: Score) -> Standing:
        """Return whether the student is ahead of a control.

        The comparison is image by image where possible; otherwise intervals must not overlap.
        """
        if score.lead is not None:
            return standing_of(score.lead)
        if self.student.overlaps(score) is not False:
            return "open"
        return "ahead" if self.student.value > score.value else "behind"

    @property
    def paired(self) -> bool:
        """Whether the student is compared with a control image by image."""
        return any(score.lead is not None for score in self.scores)

    @property
    def span(self) -> tuple[float, float]:
        """The range of an axis that holds all scores with their intervals."""
        values = [v for s in self.scores for v in (s.value, s.low, s.high) if v is not None]
        values += [] if self.published_value is None else [self.published_value]
        margin = max(0.06 * (max(values) - min(values)), 0.5)
        most = 100.0 if self.unit == "%" else max(values) + margin
        return max(0.0, min(values) - margin), min(most, max(values) + margin)

    def place(self, value: float) -> float:
        """Return the position of a value on that axis, in percent of its length."""
        low, high = self.span
        return round(100 * (value - low) / (high - low), 2)


def judging(scored: Sequence[Protocol]) -> tuple[Protocol, ...]:
    """Return the protocols that judge the student: those in percent, if possible with controls."""
    shares = [protocol for protocol in scored if protocol.unit]
    return tuple([p for p in shares if len(p.scores) > 1] or shares)


def protocols(run: RunFacts) -> tuple[Protocol, ...]:
    """Return the protocols of a run, in the order of its config."""
    return tuple(_protocol(run, name) for name in run.config["evaluate"] if name in run.metrics)


def _protocol(run: RunFacts, name: str) -> Protocol:
    metrics = run.metrics[name]
    published = published_for(run.name, run.student.architecture).get(name)
    main, kind = leading(metrics), metrics["protocol"]["kind"]
    chance = metrics.get("chance")
    if main == BALANCED:
        chance = 100 / metrics[SIZES]["classes"]
    subjects = {STUDENT: metrics, **metrics["controls"]}
    rows = {subject: dict(_numbers(values)) for subject, values in subjects.items()}
    heads = list(dict.fromkeys(head for row in rows.values() for head in row))
    scores = {s: _score(run, name, s, v) for s, v in subjects.items() if main in v}
    return Protocol(
        name=name,
        kind=kind,
        asks=asks(kind, main, metrics["protocol"], metrics["images"]),
        main=main,
        figure=figure_of(main),
        unit="" if main in UNITLESS else "%",
        chance=chance,
        chance_says=chance_of(main, chance),
        options=metrics["protocol"],
        split=metrics["split"],
        images=metrics["images"],
        scores=tuple(scores.values()),
        published=published,
        published_value=published.values.get(main) if published else None,
        heads=tuple(spoken(head, main=main) for head in heads),
        table=tuple(
            (_label(run, subject), tuple(row.get(head, "") for head in heads))
            for subject, row in rows.items()
        ),
        class_sizes=metrics.get(SIZES),
        unbalanced=metrics[metrics["main"]] if main == BALANCED else None,
    )


def _score(run: RunFacts, protocol: str, subject: str, values: Mapping[str, Any]) -> Score:
    main = leading(run.metrics[protocol])
    return Score(
        subject,
        _role(run, subject),
        values[main],
        values.get(f"{main}_low"),
        values.get(f"{main}_high"),
        _lead(run.per_image.get(protocol), subject, run.config["seed"]),
    )


def _lead(images: ScoredImages | None, subject: str, seed: int) -> Paired | None:
    if images is None or subject == STUDENT or not {STUDENT, subject} <= images.values.keys():
        return None
    ours, theirs = images.values[STUDENT], images.values[subject]
    return paired(ours, theirs, seed=seed, classes=images.classes)


def _role(run: RunFacts, subject: str) -> Role:
    for feature in run.cached:
        if feature.name == subject:
            return "teacher" if feature.teacher else "feature"
    known: dict[str, Role] = {
        STUDENT: "student",
        START: "start",
        SUPERVISED: "supervised",
        UNTRAINED: "untrained",
        PIXELS: "pixels",
    }
    return known.get(subject, "feature")


def _label(run: RunFacts, subject: str) -> str:
    return Score(subject, _role(run, subject), 0, None, None).label


def _numbers(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the numbers of a subject by name; those against a reference get its name appended."""
    for name, value in values.items():
        if name in ("seed", "chance"):
            continue
        if isinstance(value, bool):
            yield name, "yes" if value else "no"
        elif isinstance(value, int | float):
            yield name, number(value)
        elif name.startswith("with_"):
            for inner, nested in value.items():
                if f"{inner}_{name}" not in values:  # the main figure already has a column
                    yield f"{inner}_{name}", number(nested)
