"""What a newcomer asks first: what was done, how good it is, whether to trust it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.reporting.cached import Cache, cache
from pipeline.reporting.formats import count, duration, millions, number, size
from pipeline.reporting.proposals import Proposal, proposals
from pipeline.reporting.run_facts import RunFacts
from pipeline.reporting.scores import Protocol, judging, protocols
from pipeline.reporting.trust import Note, notes
from pipeline.reporting.verdict import verdict


@dataclass(frozen=True)
class Summary:
    """`verdict` sums up the run in a few sentences.

    `facts` say what was done. `headlines` are the protocols that the verdict is based on.
    `notes` say whether to trust the scores, `proposals` what to try next.
    """

    verdict: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    headlines: tuple[Protocol, ...]
    notes: tuple[Note, ...]
    proposals: tuple[Proposal, ...]


def summary(run: RunFacts, assignments: Sequence[str] = ()) -> Summary:
    """Return the summary of a run; `assignments` are the overrides that it was made with."""
    scored = protocols(run)
    return Summary(
        verdict=tuple(verdict(run, scored)),
        facts=tuple(_facts(run)),
        headlines=judging(scored) or scored,
        notes=tuple(notes(run, scored)),
        proposals=proposals(run, scored, assignments),
    )


def _facts(run: RunFacts) -> Iterator[tuple[str, str]]:
    yield "Data", _data(run)
    student = run.student
    yield (
        "Student",
        f"{student.architecture}: {millions(student.parameters)} parameters, "
        f"{count(student.width)} numbers per image",
    )
    yield "Teacher", _teachers(run)
    yield "Training", _training(run)
    stored = cache(run)
    if isinstance(stored, Cache):
        yield "Cached", _cached(stored)


def _data(run: RunFacts) -> str:
    image = run.config["dataset"]["image"]
    splits = ", ".join(f"{count(s.images - s.invalid)} {name}" for name, s in run.splits.items())
    if run.multi_label:
        classes = f"{len(run.classes)} classes, several per image"
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


def _teachers(run: RunFacts) -> str:
    named = {term.get("representation") for term in run.objective.values()}
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
        f"{names}: {size(stored.bytes)} instead of {size(stored.raw_bytes)} unreduced, with an "
        f"error of plain distance correlation of at most {number(stored.dcor_error)}"
    )
    if stored.saved_seconds:
        text += f"; {duration(stored.saved_seconds)} of extraction not repeated"
    return text


def _training(run: RunFacts) -> str:
    if run.epochs is None:
        return f"none: the weights {run.config['student']['weights']} were used as given"
    terms = ", ".join(
        f"{term['kind']} on {term['representation']}" if "representation" in term else term["kind"]
        for term in run.objective.values()
    )
    epochs = "1 epoch" if run.epochs == 1 else f"{count(run.epochs)} epochs"
    return f"{epochs}, batches of {run.config['train']['batch_size']}; objective: {terms}"
