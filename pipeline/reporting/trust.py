"""Whether to trust the scores: how choices were made, what controls say, what may mislead."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.reporting.comparison_texts import Standing, amount, listed, signed
from pipeline.reporting.formats import count, number, percent
from pipeline.reporting.health import has_collapsed
from pipeline.reporting.run_facts import RunFacts
from pipeline.reporting.sample import STUDENT
from pipeline.reporting.scores import Protocol, Role, Score, judging
from pipeline.training.curve_names import KNN, OBJECTIVE, PROBE
from pipeline.training.doubts import doubts

FEW_IMAGES = 1000
MUCH_WAITING = 0.2

RULES = {
    PROBE: "the highest accuracy of the online linear probe on validation images",
    KNN: "the highest accuracy of the online nearest neighbours among validation images",
    OBJECTIVE: "the lowest objective on validation images",
    "last": "taking the last epoch",
}


@dataclass(frozen=True)
class Note:
    """One sentence on trust: `good` news, a reason for `caution`, or plain `info`."""

    kind: Literal["good", "caution", "info"]
    text: str


def notes(run: RunFacts, scored: Sequence[Protocol]) -> Iterator[Note]:
    """Yield what a reader should know before believing the scores."""
    yield from _selection(run)
    yield from _images_scored(run, scored)
    yield from _gains(judging(scored))
    for protocol in judging(scored):
        yield from _controls(protocol)
    yield from _teachers(scored)
    yield from _unconverged(run)
    yield from _published(run, scored)
    yield from _health(run)
    yield Note(
        "info",
        "One seed. The intervals say how much a figure depends on the choice of scored images, not "
        "on the training seed: train with other seeds before believing a small difference.",
    )
    yield from _course(run)
    yield from _unreadable(run)


def _selection(run: RunFacts) -> Iterator[Note]:
    rule = run.training.get("rule")
    if run.epochs is None:
        yield Note(
            "info",
            "The weights were given: nothing was chosen here, and it is not known which images "
            "they have seen before.",
        )
    elif rule in RULES:
        spared = " No test image took part." if "test" in run.splits else ""
        cut = rule != "last" and run.config["dataset"]["split"]["validation"] > 0
        yield Note(
            "good",
            f"The checkpoint is that of epoch {run.training['epoch']}, chosen by {RULES[rule]}"
            f"{', which were cut from the training images' if cut else ''}.{spared}",
        )
    yield from (Note("caution", doubt) for doubt in doubts(run.curves, run.training))


def _images_scored(run: RunFacts, scored: Sequence[Protocol]) -> Iterator[Note]:
    for split in sorted({protocol.split for protocol in scored}):
        named = [protocol for protocol in scored if protocol.split == split]
        images = max(protocol.images[split] for protocol in named)
        names = listed([protocol.name for protocol in named])
        if split == "test":
            yield Note(
                "good",
                f"{count(images)} test images, read once per protocol, after everything had been "
                f"fitted and chosen on other images ({names}).",
            )
        else:
            chose = str(run.training.get("rule", "")).startswith(f"{split}/")
            used = (
                ", which also chose the checkpoint, so the figures may be too high"
                if chose
                else ", on which nothing was chosen"
            )
            yield Note(
                "caution" if chose else "info",
                f"There are no test images: {names} used {count(images)} {split} images{used}.",
            )
        if images < FEW_IMAGES:
            yield Note(
                "caution", f"There are only {count(images)} {split} images: intervals are wide."
            )
        alike = [
            p.name for p in named if p.student.low is not None and p.student.low == p.student.high
        ]
        if alike:
            yield Note(
                "caution",
                f"By {listed(alike)}, all {split} images have the same result. An interval without "
                "width means that they are too few to tell, not that the figure is certain.",
            )


def _gains(scored: Sequence[Protocol]) -> Iterator[Note]:
    yield from _gains_over("start", "the same encoder before training", scored)
    yield from _gains_over("supervised", "the same encoder trained with labels", scored)
    yield from _gains_over("untrained", "the same encoder untrained", scored)


def _gains_over(role: Role, named: str, scored: Sequence[Protocol]) -> Iterator[Note]:
    said: dict[Standing, list[str]] = {"ahead": [], "open": [], "behind": []}
    for protocol in scored:
        for score in protocol.scores:
            if score.role == role:
                said[protocol.standing(score)].append(f"{protocol.name} by {_by(protocol, score)}")
    if said["ahead"]:
        yield Note("good", f"The student is better than {named}: {_semicolons(said['ahead'])}.")
    if said["open"]:
        yield Note(
            "caution",
            f"It is not settled whether the student is better than {named}: "
            f"{_semicolons(said['open'])}.",
        )
    if said["behind"]:
        yield Note("caution", f"The student is worse than {named}: {_semicolons(said['behind'])}.")


def _by(protocol: Protocol, score: Score, *, of_control: bool = False) -> str:
    """Return how far apart a control and the student are.

    An unsettled difference is signed from the student's side or, with `of_control`, from the
    control's side.
    """
    open_ = protocol.standing(score) == "open"
    if score.lead is None:
        lead = protocol.student.value - score.value
        lead = -lead if of_control else lead
        if open_:
            sign = "+" if lead > 0 else ""
            return f"{sign}{percent(lead)}, overlapping intervals".replace("-", "−")  # noqa: RUF001
        return f"{percent(abs(lead))} points"
    if open_:
        return signed(score.lead.turned if of_control else score.lead)
    return amount(score.lead)


def _controls(protocol: Protocol) -> Iterator[Note]:
    """Yield the controls without training that the student does not clearly beat."""
    rivals = [score for score in protocol.scores if score.role in ("pixels", "feature")]
    said = {
        standing: [
            f"{score.named} by {_by(protocol, score, of_control=True)}"
            for score in rivals
            if protocol.standing(score) == standing
        ]
        for standing in ("behind", "open")
    }
    parts = []
    if said["behind"]:
        parts.append(f"Better than the student by {protocol.name}: {_semicolons(said['behind'])}.")
    if said["open"]:
        parts.append(
            f"Not clearly apart from the student by {protocol.name}: {_semicolons(said['open'])}."
        )
    if parts:
        yield Note("caution", " ".join(parts))


def _teachers(scored: Sequence[Protocol]) -> Iterator[Note]:
    reached: dict[str, list[str]] = {}
    for protocol in scored:
        for score in protocol.scores:
            if score.role == "teacher":
                reached.setdefault(score.named, []).append(
                    f"{percent(score.value)} by {protocol.name}, where the student reaches "
                    f"{percent(protocol.student.value)}"
                )
    for named, values in reached.items():
        yield Note("info", f"The embedding of {named} itself reaches {_semicolons(values)}.")


def _unconverged(run: RunFacts) -> Iterator[Note]:
    for name, metrics in run.metrics.items():
        subjects: dict[str, Any] = {STUDENT: metrics, **metrics["controls"]}
        unfinished = [s for s, values in subjects.items() if values.get("converged") is False]
        if unfinished:
            yield Note(
                "caution",
                f"By {name}, the fit of the classifier did not converge for {listed(unfinished)}: "
                f"raise evaluate.{name}.max_iterations.",
            )


def _published(run: RunFacts, scored: Sequence[Protocol]) -> Iterator[Note]:
    for protocol in scored:
        row, value = protocol.published, protocol.published_value
        if row is None or value is None:
            continue
        budget = ""
        if row.epochs is not None and run.epochs is not None and row.epochs != run.epochs:
            budget = (
                f" That run was trained for {count(row.epochs)} epochs, this one for "
                f"{count(run.epochs)}: they are not the same experiment."
            )
        note = f" {row.note}" if row.note else ""
        yield Note(
            "caution" if budget else "info",
            f"For {protocol.name}, {row.source} reports {number(value)} %.{budget}{note}",
        )


def _health(run: RunFacts) -> Iterator[Note]:
    found = run.health.get(STUDENT)
    if found is None:
        return
    says = (
        f"an effective rank of {percent(found.rank)} of at most {found.limit}, "
        f"{percent(100 * found.dead_share)} % of the dimensions dead"
    )
    if has_collapsed(found):
        yield Note("caution", f"The embedding has collapsed: {says}. Do not use this encoder.")
    else:
        yield Note("good", f"The embedding has not collapsed: {says}.")


def _course(run: RunFacts) -> Iterator[Note]:
    if not run.curves:
        return
    if run.epochs is not None and len(run.curves) < run.epochs:
        yield Note("caution", f"The curves hold {len(run.curves)} of {run.epochs} epochs.")
    if run.training.get("epoch") == run.epochs and (run.epochs or 0) > 1:
        yield Note("info", f"The last epoch was the best: {_longer(run)}")
    waits = [row["wait_share"] for row in run.curves if row.get("wait_share") is not None]
    mean = sum(waits) / len(waits) if waits else 0  # type: ignore[arg-type]
    if mean > MUCH_WAITING:
        yield Note(
            "info",
            f"Training waited for data {percent(100 * mean)} % of the time: see docs/scaling.md.",
        )


def _longer(run: RunFacts) -> str:
    """Return what it means that the last epoch was the best, which depends on the schedule."""
    schedule = run.config["train"]["schedule"]
    if schedule["kind"] == "constant":
        return "training longer may do better."
    return (
        "this is usual with a learning rate that decays, and does not show that training was too "
        "short. Try whether more epochs, with a schedule of that length, do better."
    )


def _unreadable(run: RunFacts) -> Iterator[Note]:
    bad = {name: split.invalid for name, split in run.splits.items() if split.invalid}
    if bad:
        said = ", ".join(f"{count(n)} {name}" for name, n in bad.items())
        yield Note("info", f"Images that could not be decoded were left out: {said}.")


def _semicolons(parts: Sequence[str]) -> str:
    return "; ".join(parts)
