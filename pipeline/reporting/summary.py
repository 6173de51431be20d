"""What a newcomer asks first: what was done, how good is it, can it be trusted."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.reporting.cached import Cache, cache
from pipeline.reporting.formats import count, duration, millions, number, percent, size
from pipeline.reporting.health import has_collapsed
from pipeline.reporting.run import Run
from pipeline.reporting.sample import STUDENT, UNTRAINED
from pipeline.reporting.scores import CONTROLS, Protocol, Score, protocols

HEADLINES = 3
FEW_IMAGES = 1000
MUCH_WAITING = 0.2

RULES = {
    "validation/probe_top1": "the highest accuracy of the online linear probe on validation images",
    "validation/objective": "the lowest objective on validation images",
    "last": "being the last",
}


@dataclass(frozen=True)
class Note:
    """One sentence on trust: `good`, worth `caution`, or plainly to be known (`info`)."""

    kind: Literal["good", "caution", "info"]
    text: str


@dataclass(frozen=True)
class Summary:
    """`facts` say what was done; `headlines` how good it is; `notes` whether to trust it."""

    facts: tuple[tuple[str, str], ...]
    headlines: tuple[Protocol, ...]
    notes: tuple[Note, ...]


def summary(run: Run) -> Summary:
    """Return the summary of a run."""
    scored = protocols(run)
    return Summary(
        facts=tuple(_facts(run)),
        headlines=_headlines(scored),
        notes=tuple(_notes(run, scored)),
    )


def _headlines(scored: Sequence[Protocol]) -> tuple[Protocol, ...]:
    """Return those with controls first: they say most."""
    return tuple(sorted(scored, key=lambda p: len(p.scores) == 1)[:HEADLINES])


def _facts(run: Run) -> Iterator[tuple[str, str]]:
    yield "Data", _data(run)
    student = run.student
    yield (
        "Student",
        f"{student.architecture}: {millions(student.parameters)} parameters, "
        f"{count(student.width)} numbers an image",
    )
    yield "Teacher", _teachers(run)
    yield "Training", _training(run)
    stored = cache(run)
    if isinstance(stored, Cache):
        yield "Cached", _cached(stored)


def _data(run: Run) -> str:
    image = run.config["dataset"]["image"]
    splits = ", ".join(f"{count(s.images - s.invalid)} {name}" for name, s in run.splits.items())
    if run.multi_label:
        classes = f"{len(run.classes)} classes, several an image"
    elif run.classes:
        classes = f"{len(run.classes)} classes"
    else:
        classes = "no labels"
    colours = "grey" if image["channels"] == 1 else "colour"
    size = image["size"]
    return (
        f"{run.config['dataset']['name']}: {splits} images, {classes}; "
        f"{colours}, seen at {size} × {size} pixels"  # noqa: RUF001
    )


def _teachers(run: Run) -> str:
    used = _objective(run)
    named = {term.get("representation") or name for name, term in used.items()}
    teachers = []
    for feature in run.cached:
        if not feature.teacher:
            continue
        options = run.config["features"][feature.name]
        what = options.get("model") or options["kind"]
        role = "" if feature.name in named else ", for comparison alone"
        teachers.append(f"{what} (frozen, stored as {feature.name!r}{role})")
    return ", ".join(teachers) or "none"


def _cached(stored: Cache) -> str:
    names = ", ".join(saving.feature.name for saving in stored.savings)
    text = (
        f"{names}: {size(stored.bytes)} instead of {size(stored.raw_bytes)} unreduced, at an error "
        f"of distance correlation of at most {number(stored.dcor_error)}"
    )
    if stored.saved_seconds:
        text += f"; {duration(stored.saved_seconds)} of extraction not repeated"
    return text


def _objective(run: Run) -> dict[str, Any]:
    return dict(run.config["objective"] or {}) if run.config["train"] else {}


def _training(run: Run) -> str:
    if run.epochs is None:
        return f"none: the weights {run.config['student']['weights']} were taken as they are"
    terms = ", ".join(
        name if term.get("kind", name) == name else f"{term['kind']} on {name}"
        for name, term in _objective(run).items()
    )
    epochs = "1 epoch" if run.epochs == 1 else f"{count(run.epochs)} epochs"
    return f"{epochs}, batches of {run.config['train']['batch_size']}; objective: {terms}"


def _notes(run: Run, scored: Sequence[Protocol]) -> Iterator[Note]:
    yield from _selection(run)
    yield from _test_images(scored)
    yield from _against_controls(run, scored)
    yield from _published(run, scored)
    yield from _health(run)
    yield Note(
        "info",
        "One seed. The intervals tell how much a figure depends on which images were tested, not "
        "on the seed of training: train with other seeds before believing a small difference.",
    )
    yield from _course(run)
    yield from _images(run)


def _selection(run: Run) -> Iterator[Note]:
    rule = run.training.get("rule")
    if rule in RULES:
        yield Note(
            "good",
            f"The checkpoint is that of epoch {run.training['epoch']}, chosen by {RULES[rule]}, "
            "which were cut from the training images. No test image took part.",
        )
    elif run.epochs is None:
        yield Note("info", "The weights were given: nothing was chosen here.")


def _test_images(scored: Sequence[Protocol]) -> Iterator[Note]:
    for split in sorted({protocol.split for protocol in scored}):
        named = [protocol for protocol in scored if protocol.split == split]
        images = max(protocol.images[split] for protocol in named)
        names = ", ".join(protocol.name for protocol in named)
        if split != "test":
            yield Note(
                "caution",
                f"There are no test images: {names} used {count(images)} {split} images, which "
                "may also have chosen the checkpoint, so the figures are on the high side.",
            )
            continue
        yield Note(
            "good",
            f"{count(images)} test images, read once a protocol, after everything had been "
            f"fitted and chosen on others ({names}).",
        )
        if images < FEW_IMAGES:
            yield Note(
                "caution",
                f"{count(images)} test images are few: the intervals are wide.",
            )


def _against_controls(run: Run, scored: Sequence[Protocol]) -> Iterator[Note]:
    first = next((p for p in scored if len(p.scores) > 1 and p.student.low is not None), None)
    if first is None:
        return
    untrained = first.of(UNTRAINED)
    if untrained is not None:
        yield _gain(first, untrained)
    teachers = {feature.name for feature in run.cached if feature.teacher}
    better, level = [], []
    for score in first.scores[1:]:
        if score.subject == UNTRAINED:
            continue
        if score.subject in teachers:
            yield Note(
                "info",
                f"By {first.name}, the embedding of the teacher {score.subject} reaches "
                f"{percent(score.value)}, the student {percent(first.student.value)}.",
            )
            continue
        named = f"{_named(score)} ({percent(score.value)})"
        if first.student.overlaps(score):
            level.append(named)
        elif score.value > first.student.value:
            better.append(named)
    if better:
        yield Note(
            "caution",
            f"By {first.name}, {_and(better)} {_do(better)} better than the student "
            f"({percent(first.student.value)}).",
        )
    if level:
        yield Note(
            "caution",
            f"By {first.name}, the student's interval overlaps with that of {_and(level)}: the "
            "intervals alone do not settle which is better.",
        )


def _named(score: Score) -> str:
    return score.label if score.subject in CONTROLS else f"the stored {score.subject}"


def _gain(protocol: Protocol, untrained: Score) -> Note:
    student = protocol.student
    difference = student.value - untrained.value
    if student.overlaps(untrained):
        return Note(
            "caution",
            f"By {protocol.name}, the student's interval overlaps with that of the same encoder "
            "untrained: there is no clear gain from training.",
        )
    if difference < 0:
        return Note(
            "caution",
            f"By {protocol.name}, the student is {percent(-difference)} points worse than the same "
            "encoder untrained.",
        )
    return Note(
        "good",
        f"By {protocol.name}, training gained {percent(difference)} points over the same encoder "
        "untrained; the intervals are apart.",
    )


def _published(run: Run, scored: Sequence[Protocol]) -> Iterator[Note]:
    for protocol in scored:
        row, value = protocol.published, protocol.published_value
        if row is None or value is None:
            continue
        budget = ""
        if row.epochs is not None and run.epochs is not None and row.epochs != run.epochs:
            budget = (
                f" It was trained for {count(row.epochs)} epochs, this run for "
                f"{count(run.epochs)}: they are not the same experiment."
            )
        note = f" {row.note}" if row.note else ""
        yield Note(
            "caution" if budget else "info",
            f"For {protocol.name}, {row.source} reports {number(value)} %.{budget}{note}",
        )


def _health(run: Run) -> Iterator[Note]:
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


def _course(run: Run) -> Iterator[Note]:
    if not run.curves:
        return
    if run.epochs is not None and len(run.curves) < run.epochs:
        yield Note("caution", f"The curves hold {len(run.curves)} of {run.epochs} epochs.")
    if run.training.get("epoch") == run.epochs and (run.epochs or 0) > 1:
        yield Note(
            "info",
            "The last epoch was the best: training longer is likely to do better.",
        )
    waits = [row["wait_share"] for row in run.curves if row.get("wait_share") is not None]
    mean = sum(waits) / len(waits) if waits else 0  # type: ignore[arg-type]
    if mean > MUCH_WAITING:
        yield Note(
            "info",
            f"Training waited for data {percent(100 * mean)} % of the time: see docs/scaling.md.",
        )


def _images(run: Run) -> Iterator[Note]:
    bad = {name: split.invalid for name, split in run.splits.items() if split.invalid}
    if bad:
        listed = ", ".join(f"{count(n)} {name}" for name, n in bad.items())
        yield Note("info", f"Images that could not be decoded were left out: {listed}.")


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _do(names: Sequence[str]) -> str:
    return "does" if len(names) == 1 else "do"
