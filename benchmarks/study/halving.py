"""What is to be trained and scored, in which order: successive halving, from the results so far.

Every candidate is trained for the fewest steps. The better third of each track goes on to the next
rung, and the best of the last rung but one is a finalist. Choices see validation images and one
seed. Finalists and references are then trained with all seeds, on that rung and on the longest, and
scored on test images as well. A track goes on as soon as it is complete, and what tells most about
all of them comes first.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from statistics import mean
from typing import Any

from benchmarks.study.candidates import Candidate
from benchmarks.study.setups import Setup
from pipeline.datasets.source import Split

Result = Mapping[str, Any]
CHOSEN_BY = ("linear", "knn")
KEPT_SHARE = 3  # one in three
CHOICE_SEED = 0
CONTROL_RUNG = 0


@dataclass(frozen=True)
class Run:
    """A candidate, trained for the steps of a rung with a seed, and scored on a split.

    Controls, which are not trained, have rung 0.
    """

    name: str
    rung: int
    seed: int
    split: Split


Results = Mapping[Run, Result]


def plan(setup: Setup, seeds: Sequence[int], results: Results) -> Iterator[Run]:
    """Yield all that is known to be wanted, whether it is done or not, in the order of work."""
    candidates, rungs, controls = setup.candidates, setup.rungs, setup.controls
    entrants = tracks(candidates)
    yield from _tried(candidates, entrants, rungs[0])
    yield from (Run(name, CONTROL_RUNG, CHOICE_SEED, "validation") for name in controls)
    for lower, rung in pairwise(rungs[:-1]):
        entrants = promoted(candidates, entrants, lower, results)
        yield from _tried(candidates, entrants, rung)
    final = finalists(candidates, entrants, rungs[-2], results)
    if not final:
        return
    yield from _confirmed(final, rungs[-2], seeds)
    yield from (Run(name, CONTROL_RUNG, CHOICE_SEED, "test") for name in controls)
    yield from _confirmed(final, rungs[-1], seeds)


def tracks(candidates: Mapping[str, Candidate]) -> dict[str, list[str]]:
    """Return the names of the candidates of each track."""
    found: dict[str, list[str]] = {}
    for name, candidate in candidates.items():
        found.setdefault(candidate.track, []).append(name)
    return found


def promoted(
    candidates: Mapping[str, Candidate],
    entrants: Mapping[str, Sequence[str]],
    rung: int,
    results: Results,
) -> dict[str, list[str]]:
    """Return the better third of each complete track, rounded up, and its references."""
    found = {}
    for track, names in entrants.items():
        ranked = _ranked(names, rung, results)
        if ranked:
            kept = ranked[: math.ceil(len(ranked) / KEPT_SHARE)]
            found[track] = [n for n in names if n in kept or candidates[n].reference]
    return found


def finalists(
    candidates: Mapping[str, Candidate],
    entrants: Mapping[str, Sequence[str]],
    rung: int,
    results: Results,
) -> list[str]:
    """Return the best of each complete track, then the references of those tracks."""
    complete = (_ranked(names, rung, results) for names in entrants.values())
    ranked = [names for names in complete if names]
    best = [names[0] for names in ranked]
    references = [name for names in ranked for name in names if candidates[name].reference]
    return list(dict.fromkeys([*best, *references]))


def merit(result: Result) -> float:
    """Return the mean of the validation scores that choices follow, in percent."""
    return mean(float(result["scores"][figure]) for figure in CHOSEN_BY)


def _ranked(names: Sequence[str], rung: int, results: Results) -> list[str]:
    """Return names, best first; none unless all of them have results."""
    runs = {name: Run(name, rung, CHOICE_SEED, "validation") for name in names}
    if not all(run in results for run in runs.values()):
        return []
    return sorted(names, key=lambda name: -merit(results[runs[name]]))


def _tried(
    candidates: Mapping[str, Candidate], entrants: Mapping[str, Sequence[str]], rung: int
) -> Iterator[Run]:
    """Yield references, then the tracks in turns."""
    turns = zip_longest(*entrants.values())
    names = [name for turn in turns for name in turn if name is not None]
    for name in sorted(names, key=lambda name: not candidates[name].reference):
        yield Run(name, rung, CHOICE_SEED, "validation")


def _confirmed(final: Sequence[str], rung: int, seeds: Sequence[int]) -> Iterator[Run]:
    """Yield all of one seed before the next, so that leads are paired as early as possible."""
    for seed in seeds:
        for name in final:
            yield Run(name, rung, seed, "validation")
            yield Run(name, rung, seed, "test")
