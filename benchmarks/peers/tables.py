"""The comparison as Markdown: what each way took and scored, and how far ours is ahead."""

from collections.abc import Mapping
from statistics import mean

from benchmarks.markdown import table
from benchmarks.peers.order import at_equal_time, control, cpu_seconds, on_test
from benchmarks.peers.ways import CONTROLS, OURS, PEERS, STUDENT_SIZE, TEACHER, WAYS
from benchmarks.study.halving import CONTROL_RUNG, Result, Results, Run
from benchmarks.study.tables import NOTHING, lead, mean_and_deviation

NAME = "peers"
FIGURES = {"linear": "linear", "knn": "k-NN", "retrieval": "recall at 1"}


def tables(results: Results) -> str:
    """Return both tables, as far as there are results."""
    parts = (
        ("Test images; seconds on one core:", measured(results)),
        (
            f"Leads of {OURS!r}, in points, at as many steps and in about as many CPU seconds, "
            "of which all that the preparation took:",
            leads(results),
        ),
    )
    return "\n".join(f"{title}\n\n{text}" for title, text in parts if text) or NOTHING


def measured(results: Results) -> str:
    """Return what was measured of controls and of each way after each number of steps."""
    rows = []
    for rung in sorted({run.rung for run in results}):
        for name in CONTROLS if rung == CONTROL_RUNG else WAYS:
            own = _by_seed(results, name, rung)
            if own:
                rows.append(_row(name, rung, list(own.values())))
    head = ["", "steps", "CPU s", "clock s", "start and end", "scored at", *FIGURES.values()]
    return table([*head, "seeds"], rows)


def leads(results: Results) -> str:
    """Return how far ours is ahead of each peer, at equal steps and at equal time."""
    prepared = results.get(control(TEACHER))
    rows = []
    for steps in sorted({run.rung for run in results if run.name in PEERS}):
        for name in PEERS:
            for what in ("steps", "time"):
                pairs = _pairs(results, name, steps, what)
                if pairs and prepared:
                    rows.append([name, f"{steps:,}", what, *_lead(pairs, cpu_seconds(prepared))])
    head = ["ahead of", "its steps", "at equal", "steps of ours", "CPU s of ours", "CPU s of its"]
    return table([*head, *FIGURES.values(), "seeds"], rows)


def _row(name: str, rung: int, found: list[Result]) -> list[str]:
    seconds = [result["seconds"] for result in found if "seconds" in result]
    sizes = sorted({result.get("size", STUDENT_SIZE) for result in found})
    return [
        name,
        f"{rung:,}" if rung else "",
        *(_seconds([own[key] for own in seconds if key in own]) for key in ("cpu", "wall")),
        _seconds([own["around"] for own in seconds if "around" in own]),
        "" if name == TEACHER else ", ".join(f"{size} px" for size in sizes),
        *(mean_and_deviation([result["scores"][figure] for result in found]) for figure in FIGURES),
        str(len(found)),
    ]


def _pairs(results: Results, name: str, steps: int, what: str) -> list[tuple[Run, Result, Result]]:
    """Return our run with both results, for each seed that both have."""
    found = []
    for seed, theirs in _by_seed(results, name, steps).items():
        same_time = at_equal_time(on_test(name, steps, seed), results)
        run = on_test(OURS, steps, seed) if what == "steps" else same_time
        if run is not None and run in results:
            found.append((run, results[run], theirs))
    return found


def _lead(pairs: list[tuple[Run, Result, Result]], preparation: float) -> list[str]:
    return [
        ", ".join(f"{steps:,}" for steps in sorted({run.rung for run, _, _ in pairs})),
        _seconds([cpu_seconds(ours) + preparation for _, ours, _ in pairs]),
        _seconds([cpu_seconds(theirs) for _, _, theirs in pairs]),
        *(
            lead([ours["scores"][figure] - theirs["scores"][figure] for _, ours, theirs in pairs])
            for figure in FIGURES
        ),
        str(len(pairs)),
    ]


def _by_seed(results: Results, name: str, rung: int) -> Mapping[int, Result]:
    return {run.seed: own for run, own in results.items() if (run.name, run.rung) == (name, rung)}


def _seconds(values: list[float]) -> str:
    return f"{mean(values):,.0f}" if values else ""
