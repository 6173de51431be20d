"""A run in a few sentences: what was trained, how good it is, how far to trust the scores."""

from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.evaluation.protocol import BALANCED
from pipeline.reporting.comparison_texts import Standing, amount, listed
from pipeline.reporting.formats import count, millions, percent
from pipeline.reporting.health import has_collapsed
from pipeline.reporting.run_facts import RunFacts
from pipeline.reporting.sample import STUDENT
from pipeline.reporting.scores import Protocol, Score, judging
from pipeline.training.curve_names import KNN, PROBE

# What a main figure of `value` percent means, by kind of protocol.
REACHED = {
    "linear": "A linear classifier on its features is right on {value} % of {images}",
    "online": "The classifier trained beside it is right on {value} % of {images}",
    "knn": "The nearest training images give the right class for {value} % of {images}",
    "semi_supervised": "After fine-tuning on few labels, it is right on {value} % of {images}",
    "robustness": "A classifier of its features, fitted on unchanged images, is right on {value} % "
    "of {images} that were shifted, turned, scaled and made noisy",
    "zero_shot": "With the teacher's text prompts, it is right on {value} % of {images}",
    "voc07": "Linear classifiers on its features find the objects in {images} with a mean average "
    "precision of {value} %",
}
RECALL = "For {value} % of {images}, an image of the same class is among the nearest {k}"
AGREEMENT = "Of the {k} nearest neighbours of {images}, {value} % are those that {other} finds"
VIEWS = ("invariance", "view_dependence")


def verdict(run: RunFacts, scored: Sequence[Protocol]) -> Iterator[str]:
    """Yield the paragraphs in reading order."""
    yield f"{_made(run)} {_labels(run, scored)}"
    judges = judging(scored)
    if not judges:
        yield "How good it is has not been measured."
        return
    yield f"{_reached(judges[0])} {_beside_controls(judges)}".strip()
    yield _trust(run, judges[0])


def _made(run: RunFacts) -> str:
    student, train = run.student, run.splits["train"]
    what = f"{student.architecture} with {millions(student.parameters)} parameters"
    weights = run.config["student"].get("weights")
    if run.epochs is None:
        return f"A {what} was scored with the weights {weights}: nothing was trained here."
    epochs = "1 epoch" if run.epochs == 1 else f"{count(run.epochs)} epochs"
    start = f", starting from the weights {weights}" if weights else ""
    return (
        f"A {what} was trained for {epochs} on {count(train.images - train.invalid)} images of "
        f"{run.config['dataset']['name']}{start}, {_from(run)}."
    )


def _from(run: RunFacts) -> str:
    """Return what the student learned from: teachers, two views, representations."""
    terms = run.objective
    wanted = {t["representation"]: None for t in terms.values() if t.get("representation")}
    teachers = [f.name for f in run.cached if f.teacher and f.name in wanted]
    others = [name for name in wanted if name not in teachers]
    parts = []
    if teachers:
        named = [f"{name} ({_model(run, name)})" for name in teachers]
        said = f"from the frozen teacher{'s' * (len(teachers) > 1)} {listed(named)}"
        parts.append(said.replace("teacher teacher", "teacher"))
    if any(term.get("kind") in VIEWS for term in terms.values()):
        parts.append("from two views of each image")
    if others:
        parts.append(f"from the representation{'s' * (len(others) > 1)} {listed(others)}")
    labelled = any(term["kind"] == "labels" for term in terms.values())
    without = [f"{'with' if labelled else 'without'} labels"]
    without += [] if teachers else ["without a teacher"]
    return f"{listed(without)}: {listed(parts)}" if parts else listed(without)


def _model(run: RunFacts, teacher: str) -> str:
    options = run.config["features"][teacher]
    return str(options.get("model") or options["kind"])


def _labels(run: RunFacts, scored: Sequence[Protocol]) -> str:
    if not any(split.labelled for split in run.splits.values()):
        return "The images have no labels."
    uses = []
    if run.epochs is not None and run.training.get("rule") in (PROBE, KNN):
        uses.append("to choose the best epoch on validation images")
    if any(term["kind"] == "labels" for term in run.objective.values()):
        uses.append("to train the student")
    if run.config["train"] and run.config["train"].get("supervised_control"):
        uses.append("to train a control")
    if scored:
        uses.append("to fit and score the protocols below")
    return f"Labels were used only {listed(uses)}." if uses else "No label was used."


def _reached(protocol: Protocol) -> str:
    images = f"{count(protocol.images[protocol.split])} {protocol.split} images"
    if protocol.main == BALANCED and protocol.class_sizes is not None:
        largest, smallest = (count(protocol.class_sizes[n]) for n in ("largest", "smallest"))
        images += (
            f", where each class counts alike because the largest has {largest} of them and the "
            f"smallest {smallest}"
        )
    reached = _sentence(protocol).format(value=percent(protocol.student.value), images=images)
    chance = f" ({protocol.chance_says})" if protocol.chance_says else ""
    beside = [_beside(protocol, score) for score in _told(protocol)]
    said = f"{reached}{chance}{': ' if beside else ''}{listed(beside) if beside else ''}."
    if protocol.unbalanced is not None:
        said += f" Where each image counts alike, it is {percent(protocol.unbalanced)} %."
    return said


def _sentence(protocol: Protocol) -> str:
    """Return a sentence on the main figure, with the placeholders `value` and `images`."""
    figure, _, rest = protocol.main.partition("_at_")
    k, _, other = rest.partition("_with_")
    if figure in ("recall", "agreement"):
        nearest = RECALL if figure == "recall" else AGREEMENT
        return nearest.replace("{k}", k).replace("{other}", other)
    return REACHED.get(protocol.kind, f"By {protocol.name} it reaches {{value}} % on {{images}}")


def _told(protocol: Protocol) -> list[Score]:
    """Return the controls to name: encoders, pixels, the best stored feature, teachers."""
    by_role: dict[str, list[Score]] = {}
    for score in protocol.scores[1:]:
        by_role.setdefault(score.role, []).append(score)
    best = sorted(by_role.get("feature", []), key=lambda score: -score.value)[:1]
    return [
        *by_role.get("start", []),
        *by_role.get("supervised", []),
        *by_role.get("untrained", []),
        *by_role.get("pixels", []),
        *best,
        *by_role.get("teacher", []),
    ]


def _beside(protocol: Protocol, score: Score) -> str:
    lead = score.lead.difference if score.lead else protocol.student.value - score.value
    several = sum(other.role == "feature" for other in protocol.scores) > 1
    best = ", the best stored feature" if several and score.role == "feature" else ""
    standing = protocol.standing(score)
    if standing == "open":
        return f"about level with {score.named} ({percent(score.value)}){best}"
    side = "above" if standing == "ahead" else "below"
    return f"{percent(abs(lead))} points {side} {score.named}{best}"


def _beside_controls(scored: Sequence[Protocol]) -> str:
    """Return what all protocols say about training and about controls without training.

    Training is judged by what it began with: given weights, or the encoder untrained.
    """
    stood: dict[Standing, list[str]] = {"ahead": [], "open": [], "behind": []}
    for protocol in scored:
        if protocol.before is not None:
            stood[protocol.standing(protocol.before)].append(protocol.name)
    if not any(stood.values()):
        return ""
    helped, not_so = stood["ahead"], [*stood["open"], *stood["behind"]]
    if helped:
        but = f", but not clearly according to {listed(not_so)}" if not_so else ""
        said = f"Training helped according to {listed(helped)}{but}."
    else:
        said = f"No protocol shows that training helped ({listed(not_so)})."
    return f"{said} {_rivals(scored)}"


def _rivals(scored: Sequence[Protocol]) -> str:
    """Return what protocols say about controls that nothing was trained for here."""
    better: dict[str, list[str]] = {}
    won, level = list[Protocol](), list[Protocol]()
    for protocol in scored:
        standings = {score: protocol.standing(score) for score in _untaught(protocol)}
        ahead = [score for score, standing in standings.items() if standing == "behind"]
        if ahead:
            strongest = max(ahead, key=lambda score: score.value)
            better.setdefault(strongest.named, []).append(protocol.name)
        elif "open" in standings.values():
            level.append(protocol)
        elif standings:
            won.append(protocol)
    said = []
    if won:
        everywhere = not better and not level
        by = "" if everywhere else f" by {listed([protocol.name for protocol in won])}"
        said.append(f"It is better than every control without training{by}{_nearest(won)}.")
    if better:
        named = [f"{control} by {listed(by)}" for control, by in better.items()]
        said.append(f"But a control without training does better: {'; '.join(named)}.")
    elif level:
        where = f"By {listed([protocol.name for protocol in level])}, no" if won else "No"
        rest = "is clearly better, but some are about level with it."
        said.append(f"{where} control without training {rest}")
    return " ".join(said)


def _untaught(protocol: Protocol) -> list[Score]:
    return [score for score in protocol.scores if score.role in ("start", "pixels", "feature")]


def _nearest(won: Sequence[Protocol]) -> str:
    """Return which control without training is nearest and by what, as the end of a sentence."""
    leads = [
        (score.lead, f"{score.named} by {protocol.name}")
        for protocol in won
        for score in _untaught(protocol)
        if score.lead is not None
    ]
    if not leads:
        return ""
    lead, named = min(leads, key=lambda found: found[0].difference)
    return f": the nearest of them, {named}, is behind by {amount(lead)}"


def _trust(run: RunFacts, protocol: Protocol) -> str:
    found = run.health.get(STUDENT)
    if found is not None and has_collapsed(found):
        return "Do not use this encoder: its embedding has collapsed."
    student, limits = protocol.student, ["one training seed"] if run.epochs is not None else []
    if student.low is not None and student.high is not None:
        images = f"{count(protocol.images[protocol.split])} images"
        limits.append(
            f"{images}, so ±{percent((student.high - student.low) / 2)} points"
            if student.high > student.low
            else f"{images}, all with the same result, so the interval says nothing"
        )
    known = f"Keep in mind: {listed(limits)}." if limits else ""
    return f"{_fairness(run, protocol.split)} {known}".strip()


def _fairness(run: RunFacts, split: str) -> str:
    rule: Any = run.training.get("rule", "")
    if split != "test":
        chose = " that also chose the best epoch" if str(rule).startswith(f"{split}/") else ""
        return (
            f"These figures are indicative: there are no test images, only {split} images{chose}."
        )
    if run.epochs is None or run.config["student"].get("weights"):
        return (
            "Nothing was chosen on test images here; it is not known which images the given "
            "weights have seen before."
        )
    return "The figures are fair: no test image was used to train or to choose anything."
