"""What to try next: at most three commands that follow from what was measured.

Each rule looks for one way in which runs fail, and proposes the change that mends it. They stand in
the order in which failures hide others: labels that do not fit make every score meaningless, and a
collapsed embedding says nothing of the number of steps.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import Any

from pipeline.models.encoder import IMAGENET_MEAN, IMAGENET_STD
from pipeline.planning.proportions import steps_for
from pipeline.reporting.formats import count, percent
from pipeline.reporting.health import has_collapsed
from pipeline.reporting.run_facts import RunFacts
from pipeline.reporting.sample import PIXELS, STUDENT
from pipeline.reporting.scores import Protocol, judging
from pipeline.training.curve_names import LABELLED, OBJECTIVE, PROBE, TRIVIAL
from pipeline.training.doubts import doubts

MOST = 3
SPREADING = (
    *("variance", "covariance", "barlow", "sigreg"),
    *("dependence", "regression", "affinity", "labels"),
)
# Learning rates of each optimiser: below and above which they are a suspect, and a usual one.
RATES = {"adam": (1e-4, 1e-2, 1e-3), "adamw": (1e-4, 1e-2, 1e-3), "sgd": (1e-2, 1.0, 0.1)}
MOST_LONGER = 10
STILL_FALLING = 0.03  # the share of an objective's fall that comes in its last quarter
STEADY = 0.8  # the share of epochs in which an objective falls, if it falls steadily
ONE_DIRECTION = 0.5  # of 1 - cosine, below which the best constant is a good answer
FEW_VALIDATION = 500
# Files hold more than the student sees by their bytes, or by the side to which most were reduced.
SMALL_SIZE, BYTES_A_PIXEL, TAR_BYTES, STORED_LARGER = 96, 4, 2560, 3
SMALL_CLASS = 10
IMAGENET = ([*IMAGENET_MEAN], [*IMAGENET_STD])
SYMMETRIC = ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])


@dataclass(frozen=True)
class Proposal:
    """A command, why it should help, and the seconds that it will take (None if unknown)."""

    command: str
    why: str
    seconds: float | None


def proposals(
    run: RunFacts, scored: Sequence[Protocol], assignments: Sequence[str] = ()
) -> tuple[Proposal, ...]:
    """Return what to try next, most promising first.

    The commands repeat `assignments`, the overrides that the run was made with.
    """
    if run.epochs is None:
        return ()
    judges = judging(scored)
    rules = (
        _labels(run, judges),
        _teacher(run, judges),
        _collapse(run),
        _rate(run),
        _selection(run),
        _steps(run, judges),
        _centring(run),
        _size(run),
        _small_classes(run, judges),
    )
    found = dict[str, Proposal]()
    for rule in rules:
        for proposal in rule:
            found.setdefault(proposal.command, proposal)
    return tuple(
        replace(one, command=_repeating(one.command, assignments))
        for one in islice(found.values(), MOST)
    )


def _repeating(command: str, assignments: Sequence[str]) -> str:
    """Return a command with the overrides of the run before its own, which win."""
    before, dash, own = command.partition(" -s ")
    options = [word for assignment in assignments for word in ("-s", assignment)]
    return f"{before} {shlex.join(options)}{dash}{own}" if options else command


def _command(words: Sequence[str], changes: Mapping[str, object]) -> str:
    options = [word for key, value in changes.items() for word in ("-s", f"{key}={_value(value)}")]
    return shlex.join(["mvmr", *words, *options])


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_value(v)}' for key, v in value.items())}}}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _train(run: RunFacts, why: str, changes: Mapping[str, object], factor: float = 1) -> Proposal:
    seconds = _seconds(run, "train")
    known = None if seconds is None else factor * seconds
    return Proposal(_command(["train"], changes), why, known)


def _seconds(run: RunFacts, *stages: str) -> float | None:
    """Return the seconds that stages took, None if one is unknown."""
    took = [work.seconds for work in run.work if work.stage in stages]
    known = [seconds for seconds in took if seconds is not None]
    return sum(known) if len(known) == len(stages) else None


def _labels(run: RunFacts, judges: Sequence[Protocol]) -> Iterator[Proposal]:
    """Propose to mend the labels if nothing, not even pixels or a teacher, is above chance."""
    by_label = [p for p in judges if p.chance is not None and len(p.scores) > 1]
    alike = all(
        score.low is not None and p.chance is not None and score.low <= p.chance
        for p in by_label
        for score in p.scores
    )
    if by_label and alike:
        yield Proposal(
            _command(["shard", "--force"], {}),
            "Neither the student nor any control is better than chance, so labels and images seem "
            "not to belong together. Compare some images with their classes, mend the folders or "
            "the list of labels, and pack again.",
            _seconds(run, "shard"),
        )


def _teacher(run: RunFacts, judges: Sequence[Protocol]) -> Iterator[Proposal]:
    """Propose other images for a teacher that is no better than pixels, or to do without it."""
    terms = {t["representation"]: n for n, t in run.objective.items() if "representation" in t}
    for name, term in terms.items():
        pairs = [
            (score.value, pixels.value)
            for p in judges
            if (score := p.of(name)) and score.role == "teacher" and (pixels := p.of(PIXELS))
        ]
        if not pairs or 2 * sum(ours <= theirs for ours, theirs in pairs) <= len(pairs):
            continue
        (ours, theirs), options = pairs[0], run.config["features"][name]
        teacher = "The teacher" if name == "teacher" else f"The teacher {name}"
        why = (
            f"{teacher} itself reaches {percent(ours)} %, no more than raw pixels "
            f"({percent(theirs)} %): "
        )
        if "mean" in options:
            usual = _usual(run, options["mean"])
            changes = {f"features.{name}.mean": usual[0], f"features.{name}.std": usual[1]}
            why += "the mean and deviation of its images are probably not those of its training."
            yield Proposal(
                _command(["extract-features", "--only", name], changes),
                why,
                _seconds(run, f"extract {name}"),
            )
        elif len(run.objective) > 1:
            yield _train(run, f"{why}train without it.", {f"objective.{term}.weight": 0})


def _usual(run: RunFacts, mean: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return the most usual mean and deviation besides the given ones."""
    if len(mean) == 1:
        image = run.config["dataset"]["image"]
        return image["mean"][:1], image["std"][:1]
    symmetric = all(abs(a - b) < 0.05 for a, b in zip(mean, IMAGENET[0], strict=True))
    return SYMMETRIC if symmetric else IMAGENET


def _collapse(run: RunFacts) -> Iterator[Proposal]:
    """Propose terms that keep images apart if there are none, else a smaller learning rate."""
    found = run.health.get(STUDENT)
    collapsed = found is not None and has_collapsed(found)
    if any(term["kind"] in SPREADING for term in run.objective.values()):
        if collapsed:
            why = "The embedding has collapsed: the learning rate is probably too high."
            yield _train(run, why, _tenth(run))
        return
    first: Mapping[str, Any] = next(iter(run.objective.values()))
    weight, on = _weight(first), first["on"]
    says = "The embedding has collapsed, because no" if collapsed else "No"
    yield _train(
        run,
        f"{says} term of the objective keeps images apart: one point for all would satisfy it.",
        {
            "objective.variance": {"weight": weight / 2, "on": on},
            "objective.covariance": {"weight": weight / 25, "on": on},
        },
    )


def _weight(term: Mapping[str, Any]) -> float:
    weight = term["weight"]
    return float(weight["from"] if isinstance(weight, Mapping) else weight)


def _tenth(run: RunFacts) -> dict[str, object]:
    return {"train.lr": run.config["train"]["lr"] / 10}


def _rate(run: RunFacts) -> Iterator[Proposal]:
    """Propose another learning rate, by its size and by how steadily the objective falls."""
    losses, train = _objective(run), run.config["train"]
    lr, optimizer = float(train["lr"]), train["optimizer"]["name"]
    if len(losses) < 3:
        return
    low, high, usual = RATES.get(optimizer, (0.0, float("inf"), lr))
    falls = [after < before for before, after in pairwise(losses)]
    steady = sum(falls) >= STEADY * len(falls)
    back = losses[-1] > losses[0] - 0.1 * (losses[0] - min(losses))
    if lr > high:
        unsteady = "" if steady else ", and the objective does not fall steadily"
        yield _train(
            run, f"The learning rate {lr:g} is high for {optimizer}{unsteady}.", _tenth(run)
        )
    elif lr < low and (back or (steady and _late(losses) > STILL_FALLING)):
        yield _train(
            run,
            f"The objective fell {'little' if back else 'steadily to the end'}, and the learning "
            f"rate {lr:g} is low for {optimizer}.",
            {"train.lr": usual},
        )
    elif back and not steady:
        yield _train(run, "The objective ended where it began: the rate is too high.", _tenth(run))


def _objective(run: RunFacts) -> list[float]:
    """Return the objective of each epoch: of validation, or of training where that is missing."""
    for name in (OBJECTIVE, "train/objective"):
        found = [value for row in run.curves if (value := row.get(name)) is not None]
        if found:
            return found
    return []


def _late(losses: Sequence[float]) -> float:
    """Return which share of the objective's fall came in its last quarter."""
    fall = losses[0] - losses[-1]
    border = losses[(3 * len(losses)) // 4 - 1]
    return (border - losses[-1]) / fall if fall > 0 else 0.0


def _selection(run: RunFacts) -> Iterator[Proposal]:
    """Propose to choose by the objective where few validation images chose an early epoch."""
    images = next((int(row.get(LABELLED) or 0) for row in run.curves), 0)
    if run.training.get("rule") != PROBE or not 0 < images < FEW_VALIDATION:
        return
    if any("may be chance" in doubt for doubt in doubts(run.curves, run.training)):
        early = float(run.training["epoch"]) < 0.8 * float(run.epochs or 0)
        if early:
            yield _train(
                run,
                f"{count(images)} validation images chose epoch {run.training['epoch']}, and "
                "others do not differ from it: let the objective choose.",
                {"train.select": "objective"},
            )


def _steps(run: RunFacts, judges: Sequence[Protocol]) -> Iterator[Proposal]:
    """Propose more epochs after few steps, if the objective still fell or a control is ahead.

    With a rate that decays, the objective falls little at the end however short the training.
    """
    losses, epochs = _objective(run), run.epochs or 0
    steps = next((int(row["step"] or 0) for row in reversed(run.curves) if row.get("step")), 0)
    late = _late(losses) if len(losses) > 3 else 0.0
    ahead = [
        score.named
        for protocol in judges
        for score in protocol.scores
        if score.role not in ("student", "teacher") and protocol.standing(score) == "behind"
    ]
    few = steps_for(run.config["student"].get("weights")).few
    if not 0 < steps < few or not (late >= STILL_FALLING or ahead or len(losses) <= 3):
        return
    longer = min(MOST_LONGER, max(2, round(few / steps)))
    why = f"{count(steps)} steps are few"
    if late >= STILL_FALLING:
        why += f", and {100 * late:.0f} % of the objective's fall came in the last quarter of them"
    elif ahead:
        why += f", and the student is behind {ahead[0]}"
    yield _train(run, f"{why}.", {"train.epochs": epochs * longer}, longer)


def _centring(run: RunFacts) -> Iterator[Proposal]:
    """Propose to centre the targets of a cosine that a constant answer nearly satisfies."""
    last = run.curves[-1] if run.curves else {}
    for name, term in run.objective.items():
        trivial = last.get(f"validation/{TRIVIAL}{name}")
        if term.get("loss") != "cosine" or term.get("whiten") is not None or trivial is None:
            continue
        if trivial < ONE_DIRECTION:
            yield _train(
                run,
                f"One constant answer already has a cosine of {1 - trivial:.2f} to the targets of "
                f"{name}, so most of what they teach is common to all images: centre them.",
                {f"objective.{name}.whiten": 1},
            )


def _size(run: RunFacts) -> Iterator[Proposal]:
    """Propose a larger input where the files hold more than the student sees of them."""
    image, train = run.config["dataset"]["image"], run.splits["train"]
    side, stored = image["size"], run.config["dataset"]["shards"].get("max_side") or 0
    spare = train.bytes / max(1, train.images) - TAR_BYTES
    reduced = 2 * train.reduced > train.images and stored >= STORED_LARGER * side
    if side > SMALL_SIZE or not (reduced or spare >= BYTES_A_PIXEL * side**2):
        return
    changes: dict[str, object] = {"dataset.image.size": 2 * side}
    if image.get("resize"):
        changes["dataset.image.resize"] = 2 * image["resize"]
    seconds, extracted = _seconds(run, "train"), [f"extract {f.name}" for f in run.cached]
    again = _seconds(run, *extracted)
    yield Proposal(
        _command(["extract-features"], changes),
        f"The student sees {side} pixels, and the files hold more: compute the features for a "
        "larger input, and train with the same options.",
        None if seconds is None or again is None else again + 4 * seconds,
    )


def _small_classes(run: RunFacts, judges: Sequence[Protocol]) -> Iterator[Proposal]:
    sizes = next((p.class_sizes for p in judges if p.class_sizes), None)
    share = run.config["dataset"]["split"].get("test", 0)
    # Where twice the share would still be too few, it would only take training images away.
    if sizes and SMALL_CLASS / 2 <= sizes["smallest"] < SMALL_CLASS and 0 < share <= 0.25:
        yield Proposal(
            _command(["shard"], {"dataset.split.test": 2 * share}),
            f"The smallest class has {sizes['smallest']} test images, too few to tell: keep more "
            "images for the test.",
            _seconds(run, "shard"),
        )
