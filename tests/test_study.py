"""The study: what goes on to the next rung, what is computed once, and what its tables say."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from benchmarks.study.candidates import LABELLED, VICREG, Candidate
from benchmarks.study.halving import Result, Run, finalists, plan, promoted, tracks
from benchmarks.study.results import identifier, read
from benchmarks.study.runs import PROTOCOLS, Study
from benchmarks.study.setups import BEFORE, CIFAR10, PIXELS, SETUPS, Setup, filled
from stages.experiment.schema import from_sections

SEEDS = (0, 1)
FALLING = [f"candidate {number}" for number in range(8)]
LEARNT = Candidate("one", {"hog": {"kind": "regression"}})
SMALL = replace(
    CIFAR10,
    name="small",
    rungs=(10, 20, 40),
    candidates={
        **dict.fromkeys(FALLING, LEARNT),
        "reference": replace(LEARNT, reference=True),
        "labels": Candidate(LABELLED, {"labels": {}}, reference=True),
    },
)
DIGITS = Setup(
    name="digits",
    rungs=(5, 10, 20),
    dataset={
        "name": "digits",
        "source": {"kind": "digits"},
        "split": {"method": "exact", "seed": 0, "validation": 0.1, "test": 0.2},
        "shards": {"samples": 512},
        "image": {"size": 8, "channels": 1, "mean": [0.3], "std": [0.4]},
        "views": {"count": 1},
    },
    features={"hog": {"cell": 4, "reduce": {"pca": 16}}},
    student={"architecture": "resnet8", "projector": [16]},
    train={
        "batch_size": 256,
        "lr": 1e-3,
        "augmentation": {"policy": "custom", "min_scale": 0.5},
        "stored_views": False,
    },
    candidates={
        "vicreg": Candidate("first", VICREG, reference=True),
        "gradients + more": Candidate("first", {"hog": {"kind": "regression"}}),
    },
)


def scored(value: float, **more: Any) -> Result:
    return {"scores": dict.fromkeys(PROTOCOLS, value), **more}


def follow(setup: Setup, score: Mapping[str, float]) -> Iterator[tuple[Run, dict[Run, Result]]]:
    """Do all that is wanted, one run after the other, with a score for each name."""
    results: dict[Run, Result] = {}
    while open_runs := [run for run in plan(setup, SEEDS, results) if run not in results]:
        yield open_runs[0], results
        results[open_runs[0]] = scored(score.get(open_runs[0].name, 0.0))
    yield Run("", 0, 0, "test"), results


SCORES = {name: 80.0 - place for place, name in enumerate(FALLING)} | {"reference": 10.0}


def done(setup: Setup = SMALL) -> dict[Run, Result]:
    """Return all results of a study."""
    *_, (_, results) = follow(setup, SCORES)
    return results


@pytest.mark.parametrize(("count", "kept"), [(2, 1), (3, 1), (4, 2), (9, 3), (10, 4)])
def test_the_better_third_goes_on_by_validation_rounded_up(count: int, kept: int) -> None:
    names = [f"{number}" for number in range(count)]
    candidates = dict.fromkeys(names, LEARNT)
    results = {Run(n, 10, 0, "validation"): scored(float(n)) for n in names}
    misleading = {Run(n, 10, 0, "test"): scored(-float(n)) for n in names}
    found = promoted(candidates, tracks(candidates), 10, {**results, **misleading})
    assert set(found["one"]) == set(names[-kept:])


def test_references_go_on_whatever_they_score() -> None:
    second = [run.name for run in done() if run.rung == 20 and run.split == "validation"]
    assert set(second) == {*FALLING[:3], "reference", "labels"}


def test_a_track_waits_for_its_last_candidate_and_no_other() -> None:
    results = {Run(n, 10, 0, "validation"): scored(50.0) for n in SMALL.candidates}
    del results[Run(FALLING[-1], 10, 0, "validation")]
    found = promoted(SMALL.candidates, tracks(SMALL.candidates), 10, results)
    assert found == {LABELLED: ["labels"]}


def test_the_test_images_are_read_for_finalists_and_references_alone() -> None:
    tested = [run for run in done() if run.split == "test" and run.rung]
    assert {run.name for run in tested} == {FALLING[0], "reference", "labels"}
    assert {(run.rung, run.seed) for run in tested} == {(20, 0), (20, 1), (40, 0), (40, 1)}


def test_a_run_is_wanted_on_test_images_only_once_choices_are_made() -> None:
    for run, results in follow(SMALL, SCORES):
        if run.split == "test" and run.rung:
            chosen = {r.name for r in results if r.rung == 20 and r.split == "validation"}
            assert chosen >= {*FALLING[:3], "reference", "labels"}


def test_paired_seeds_are_done_side_by_side() -> None:
    longest = [run for run in done() if run.rung == 40]
    assert [run.seed for run in longest] == sorted(run.seed for run in longest)


def test_at_most_one_finalist_a_track() -> None:
    third = {LABELLED: ["labels"], "one": [*FALLING[:3], "reference"]}
    found = finalists(SMALL.candidates, third, 20, done())
    assert found == ["labels", FALLING[0], "reference"]


@pytest.mark.parametrize("setup", SETUPS.values(), ids=list(SETUPS))
def test_every_candidate_is_an_experiment_with_a_name_for_files(setup: Setup) -> None:
    paths = {"images": "images", "teacher": "teacher"}
    for name in setup.candidates:
        content = setup.experiment(identifier(name), name, epochs=2, seed=0)
        read_back = from_sections(filled(content, paths))
        assert "$" not in json.dumps(read_back.model_dump(mode="json"))
    assert len({identifier(name) for name in setup.candidates}) == len(setup.candidates)
    competing = {c.track for c in setup.candidates.values() if not c.reference}
    assert len(competing) <= 3


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Return a study of digits whose trainings up to the second rung are done."""
    root = tmp_path_factory.mktemp("study")
    study = Study(DIGITS, root=root / "work", results=root / "results", images=root, teacher=root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        study.prepare(list(DIGITS.candidates))
        study.go_on([], (0,), 10)
    return study


def test_a_study_trains_scores_and_stops_at_the_wanted_steps(finished: Study) -> None:
    results = read(DIGITS, finished.folder)
    expected = {
        *(Run(n, 5, 0, "validation") for n in DIGITS.candidates),
        *(Run(n, 10, 0, s) for n in DIGITS.candidates for s in ("validation", "test")),
        *(Run(n, 0, 0, s) for n in (BEFORE, PIXELS, "hog") for s in ("validation", "test")),
    }
    if Run("gradients + more", 10, 0, "test") not in results:
        expected -= {Run("gradients + more", 10, 0, "test")}
    assert set(results) == expected
