"""The results of a study as Markdown: candidates, finalists, their leads, and their curves."""

import math
from collections.abc import Mapping, Sequence
from statistics import mean, stdev

from scipy.stats import t as student_t

from benchmarks.markdown import table
from benchmarks.study.halving import CONTROL_RUNG, Results, Run, merit
from benchmarks.study.setups import Setup

FIGURES = {
    "linear": "linear",
    "knn": "k-NN",
    "knn_whitened": "k-NN, best geometry",
    "recall": "recall at 1",
}
LEVEL = 0.95
CURVE_COLUMNS = 8
NOTHING = "There are no results yet.\n"


def tables(setup: Setup, results: Results) -> str:
    """Return all tables of a setup that its results allow."""
    parts = (
        ("Validation images, one seed:", tried(setup, results)),
        ("Test images, finalists and references, mean and deviation:", confirmed(setup, results)),
        (
            f"Leads on test images, paired by seed, with their {LEVEL:.0%} intervals:",
            leads(setup, results),
        ),
        ("The probe beside the training, on validation images, by steps:", curves(setup, results)),
    )
    found = [f"{title}\n\n{table}" for title, table in parts if table]
    return "\n".join(found) or NOTHING


def tried(setup: Setup, results: Results) -> str:
    """Return linear and k-NN after each rung, in each track those that got furthest first."""
    scored = {
        (run.name, run.rung): result
        for run, result in results.items()
        if (run.split, run.seed) == ("validation", 0)
    }
    if not scored:
        return ""
    rungs = [r for r in setup.rungs if any(rung == r for _, rung in scored)]
    head = [
        "",
        "objective",
        *(f"{rung:,} steps: {f}" for rung in rungs for f in ("linear", "k-NN")),
    ]

    def place(name: str) -> tuple[float, ...]:
        furthest = max(rung for rung in rungs if (name, rung) in scored)
        return (-furthest, -merit(scored[name, furthest]))

    rows = []
    for track in dict.fromkeys(c.track for c in setup.candidates.values()):
        names = [n for n, c in setup.candidates.items() if c.track == track]
        for name in sorted((n for n in names if any((n, r) in scored for r in rungs)), key=place):
            cells = [scored.get((name, rung)) for rung in rungs]
            rows.append([track, name, *(_score(c, f) for c in cells for f in ("linear", "knn"))])
    for name in setup.controls:
        if (name, CONTROL_RUNG) in scored:
            own = scored[name, CONTROL_RUNG]
            first = [_score(own, f) for f in ("linear", "knn")]
            rows.append(["control", name, *first, *[""] * (2 * len(rungs) - 2)])
    return table(head, rows)


def confirmed(setup: Setup, results: Results) -> str:
    """Return the scores on test images of each rung, and of controls."""
    rows = []
    for rung in (*setup.rungs, CONTROL_RUNG):
        for name in _tested(setup, results, rung):
            own = _by_seed(results, name, rung)
            cells = [
                mean_and_deviation([scores[figure] for scores in own.values()])
                for figure in FIGURES
            ]
            steps = f"{rung:,}" if rung else "control"
            rows.append([steps, name, *cells, str(len(own))])
    return table(["steps", "objective", *FIGURES.values(), "seeds"], rows)


def leads(setup: Setup, results: Results) -> str:
    """Return how far each finalist is ahead of each reference, if they have two seeds in common."""
    rows = []
    for rung in setup.rungs:
        names = _tested(setup, results, rung)
        references = [name for name in names if setup.candidates[name].reference]
        for name in names:
            for reference in references:
                ours, theirs = (_by_seed(results, n, rung) for n in (name, reference))
                seeds = sorted(ours.keys() & theirs.keys())
                if name == reference or len(seeds) < 2:
                    continue
                cells = [lead([ours[s][f] - theirs[s][f] for s in seeds]) for f in FIGURES]
                rows.append([f"{rung:,}", name, reference, *cells, str(len(seeds))])
    return table(["steps", "objective", "ahead of", *FIGURES.values(), "seeds"], rows)


def curves(setup: Setup, results: Results) -> str:
    """Return the top-1 of the online probe against steps, of those that got furthest."""
    parts = []
    for rung in setup.rungs[1:]:
        found = {
            name: [r["curve"] for run, r in results.items() if _is_curve(run, r, name, rung)]
            for name in setup.candidates
        }
        found = {name: points for name, points in found.items() if points}
        if found:
            parts.append(_curve_table(found))
    return "\n".join(parts)


def mean_and_deviation(values: Sequence[float]) -> str:
    """Return the mean, and the standard deviation of several values."""
    middle = f"{mean(values):.1f}"
    return f"{middle} ± {stdev(values):.1f}" if len(values) > 1 else middle


def lead(differences: Sequence[float]) -> str:
    """Return the mean of paired differences, of several with its interval by Student's t."""
    middle, count = mean(differences), len(differences)
    if count == 1:
        return f"{middle:+.1f}"
    reach = student_t.ppf((1 + LEVEL) / 2, count - 1) * stdev(differences) / math.sqrt(count)
    return f"{middle:+.1f} ({middle - reach:+.1f} to {middle + reach:+.1f})"


def _is_curve(run: Run, result: Mapping[str, object], name: str, rung: int) -> bool:
    return (run.name, run.rung, run.split) == (name, rung, "validation") and "curve" in result


def _curve_table(found: Mapping[str, Sequence[Sequence[Mapping[str, float]]]]) -> str:
    """Return one row per candidate: the mean over its seeds at each of some steps."""
    steps = [int(point["step"]) for point in next(iter(found.values()))[0]]
    every = -(-len(steps) // CURVE_COLUMNS)
    columns = steps[::-every][::-1]
    rows = []
    for name, seeds in found.items():
        at = [{int(point["step"]): point.get("probe") for point in points} for points in seeds]
        rows.append([name, *(_mean([own.get(step) for own in at]) for step in columns)])
    return table(["steps", *(f"{step:,}" for step in columns)], rows)


def _tested(setup: Setup, results: Results, rung: int) -> list[str]:
    """Return candidates, or controls, that have scores on test images at a rung."""
    names = setup.controls if rung == CONTROL_RUNG else setup.candidates
    return [name for name in names if _by_seed(results, name, rung)]


def _by_seed(results: Results, name: str, rung: int) -> dict[int, Mapping[str, float]]:
    return {
        run.seed: result["scores"]
        for run, result in results.items()
        if (run.name, run.rung, run.split) == (name, rung, "test")
    }


def _score(result: Mapping[str, Mapping[str, float]] | None, figure: str) -> str:
    return "" if result is None else f"{result['scores'][figure]:.1f}"


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{mean(known):.1f}" if known else ""
