"""The study: what goes on to the next rung, what is computed once, and what its tables say."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_rel
from sklearn.neighbors import NearestNeighbors

from benchmarks.markdown import write as write_tables
from benchmarks.study.__main__ import main
from benchmarks.study.candidates import LABELLED, VICREG, Candidate
from benchmarks.study.halving import Result, Run, finalists, plan, promoted, tracks
from benchmarks.study.records import FOLDER, curve, file_of, identifier, read, write
from benchmarks.study.runs import PROTOCOLS, Study
from benchmarks.study.setups import BEFORE, CIFAR10, PIXELS, SETUPS, Setup, filled
from benchmarks.study.tables import NOTHING, tables
from pipeline.datasets.source import Split
from pipeline.features.store import FeatureStore
from pipeline.shards.listing import read_labels
from pipeline.shards.manifest import read_manifests
from stages.experiment.paths import dataset_layout
from stages.experiment.schema import from_sections

ROOT = Path(__file__).parents[1]
SEEDS = (0, 1)
BOTH: tuple[Split, ...] = ("validation", "test")
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
    rungs=(4, 8, 16),
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
        "gradients + more": Candidate("second", {"hog": {"kind": "regression"}}),
        # Beside one that needs no crops of the same feature: both are trained from one store.
        "gradients of crops": Candidate(
            "third", {"hog": {"kind": "regression"}}, {"stored_views": True}
        ),
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
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    """Yield a study of digits whose trainings up to the second rung are done, in its folder."""
    root = tmp_path_factory.mktemp("study")
    study = Study(DIGITS, root=root / "work", results=root / "results", images=root, teacher=root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        study.prepare(list(DIGITS.candidates))
        study.go_on([], (0,), 8)
        yield study


def times(folder: Path, pattern: str) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.glob(pattern)}


def test_a_study_trains_scores_and_stops_at_the_wanted_steps(finished: Study) -> None:
    results = read(DIGITS, finished.folder)
    assert set(results) == {
        *(Run(n, 4, 0, "validation") for n in DIGITS.candidates),
        *(Run(n, 8, 0, s) for n in DIGITS.candidates for s in BOTH),
        *(Run(n, 0, 0, s) for n in (BEFORE, PIXELS, "hog") for s in BOTH),
    }
    for run, result in results.items():
        assert set(result["scores"]) == set(PROTOCOLS)
        if run.rung:
            assert [point["step"] for point in result["curve"]] == list(range(4, run.rung + 1, 4))
    assert results[Run(PIXELS, 0, 0, "test")]["scores"]["linear"] > 90


@pytest.mark.parametrize("split", BOTH)
def test_a_stored_feature_is_scored_on_its_own_images(finished: Study, split: Split) -> None:
    """By scikit-learn's neighbours, one of them for each image, without itself."""
    layout = dataset_layout("digits", str(finished.root / "data"))
    manifest = read_manifests(layout.shards)[split]
    rows = FeatureStore(layout.features)["hog"].read(split, 0, manifest.samples)
    labels = np.array(read_labels(layout.shards / split, manifest))
    whitened = [(rows - rows.mean(axis=0)) / rows.std(axis=0) ** power for power in (0.5, 1.0)]
    best = []
    for scaled in (rows, *whitened):
        found = NearestNeighbors(n_neighbors=2, metric="cosine").fit(scaled).kneighbors(scaled)[1]
        best.append(100 * (labels[found[:, 1]] == labels).mean())
    recorded = read(DIGITS, finished.folder)[Run("hog", 0, 0, split)]["scores"]["recall"]
    assert min(abs(recorded - score) for score in best) < 0.6


def test_what_is_there_is_not_computed_again(finished: Study) -> None:
    before = times(finished.folder, "*/*.json") | times(finished.root, "runs/*/checkpoints/*")
    finished.go_on([], (0,), 8)
    after = times(finished.folder, "*/*.json") | times(finished.root, "runs/*/checkpoints/*")
    assert before == after


def test_a_study_that_was_interrupted_while_it_scored_does_not_train_again(
    finished: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run("vicreg", 8, 0, "test")
    expected = read(DIGITS, finished.folder)[run]
    file_of(finished.folder, run).unlink()
    before = times(finished.root, "runs/*/checkpoints/*")
    with monkeypatch.context() as patch:
        patch.setattr("benchmarks.study.runs.scores", interrupted)
        with pytest.raises(KeyboardInterrupt):
            finished.go_on([], (0,), 8)
    assert run not in read(DIGITS, finished.folder)
    finished.go_on([], (0,), 8)
    assert read(DIGITS, finished.folder)[run] == expected
    assert times(finished.root, "runs/*/checkpoints/*") == before


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_only_some_candidates(finished: Study) -> None:
    for rung in (4, 8):
        file_of(finished.folder, Run("gradients + more", rung, 0, "validation")).unlink()
    finished.go_on(["vicreg"], (0,), 8)
    assert Run("gradients + more", 4, 0, "validation") not in read(DIGITS, finished.folder)
    finished.go_on([], (0,), 8)
    assert Run("gradients + more", 8, 0, "validation") in read(DIGITS, finished.folder)


def test_a_training_that_fails_holds_up_no_other(finished: Study, tmp_path: Path) -> None:
    hopeless = Candidate("first", VICREG, train={"lr": 1e30})
    setup = replace(DIGITS, candidates={"hopeless": hopeless, **DIGITS.candidates})
    study = Study(setup, root=finished.root, results=tmp_path, images=tmp_path, teacher=tmp_path)
    with pytest.raises(SystemExit, match="Not done: hopeless, 4 steps, seed 0"):
        study.go_on(["hopeless", "vicreg"], (0,), 8)
    assert set(read(setup, study.folder)) == {Run("vicreg", 4, 0, "validation")}


def test_a_result_of_another_recipe_is_refused(tmp_path: Path) -> None:
    run = Run(FALLING[0], 10, 0, "validation")
    write(tmp_path, run, scored(1.0, recipe=SMALL.recipe(run.name)))
    assert list(read(SMALL, tmp_path)) == [run]
    changed = replace(SMALL, train={**SMALL.train, "lr": 1.0})
    with pytest.raises(SystemExit, match=r"candidate_0-0\.json was made by another recipe"):
        read(changed, tmp_path)


def test_a_curve_keeps_its_end_and_even_distances(tmp_path: Path) -> None:
    rows = [f"{5 * n},{n / 7},{n / 9},{n}" for n in range(1, 101)]
    head = "step,validation/probe_top1,validation/knn_top1,train/objective"
    (tmp_path / "curves.csv").write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    found = curve(tmp_path / "curves.csv")
    assert len(found) <= 16
    assert found[-1] == {"step": 500, "probe": round(100 / 7, 4), "knn": round(100 / 9, 4)}
    steps = [point["step"] for point in found]
    assert {later - earlier for earlier, later in pairwise(steps)} == {35}


def test_tables_of_no_results() -> None:
    assert tables(SMALL, {}) == NOTHING


def test_the_first_table_has_those_that_got_furthest_first() -> None:
    lines = tables(SMALL, done()).split("Test images")[0].splitlines()
    names = [line.split(" | ")[1].strip("| ") for line in lines if line.startswith("| one")]
    assert names[:5] == [*FALLING[:1], "reference", *FALLING[1:4]]
    assert f"| one | {FALLING[1]} | 79.0 | 79.0 | 79.0 | 79.0 | | |" in lines


def test_the_first_table_has_those_that_skipped_a_rung() -> None:
    results = {
        Run("reference", 10, 0, "validation"): scored(50.0),
        Run(FALLING[0], 20, 0, "validation"): scored(60.0),
    }
    lines = tables(SMALL, results).splitlines()
    assert f"| one | {FALLING[0]} | | | 60.0 | 60.0 |" in lines
    assert "| one | reference | 50.0 | 50.0 | | |" in lines


def test_leads_are_paired_by_seed_with_students_interval() -> None:
    ours, theirs = [50.0, 52.0, 51.0, 55.0, 53.0], [49.0, 50.0, 51.0, 51.0, 50.0]
    results = {
        Run(name, 20, seed, "test"): scored(value)
        for name, values in ((FALLING[0], ours), ("reference", theirs))
        for seed, value in enumerate(values)
    }
    low, high = ttest_rel(ours, theirs).confidence_interval(0.95)
    cell = f"+2.0 ({low:+.1f} to {high:+.1f})"
    found = tables(SMALL, results)
    assert f"| 20 | {FALLING[0]} | reference | {' | '.join([cell] * 4)} | 5 |" in found
    spread = "52.2 ± 1.9"
    assert f"| 20 | {FALLING[0]} | {' | '.join([spread] * 4)} | 5 |" in found


def test_curves_are_means_over_seeds_at_the_same_steps() -> None:
    results = {
        Run("reference", 20, seed, "validation"): scored(
            1.0, curve=[{"step": s, "probe": s + seed} for s in (10.0, 20.0)]
        )
        for seed in (0, 1)
    }
    assert "| steps | 10 | 20 |\n|---|---|---|\n| reference | 10.5 | 20.5 |\n" in tables(
        SMALL, results
    )


def test_tables_are_written_between_their_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- study small -->\nold\n<!-- end of study small -->\nb\n", "utf-8")
    write_tables(page, "study small", "| new |\n")
    expected = "a\n<!-- study small -->\n\n| new |\n\n<!-- end of study small -->\nb\n"
    assert page.read_text(encoding="utf-8") == expected
    with pytest.raises(SystemExit, match="has no lines <!-- study other -->"):
        write_tables(page, "study other", "")


@pytest.mark.parametrize("name", SETUPS)
def test_the_page_of_results_has_a_place_for_every_data_set(name: str, tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    page.write_bytes((ROOT / "docs" / "results.md").read_bytes())
    write_tables(page, f"study {name}", "| new |\n")
    assert "| new |" in page.read_text(encoding="utf-8")


def test_the_command_lists_what_is_open_and_prints_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "cifar10", Run("barlow", 600, 0, "validation"), scored(12.3))
    for command in (["list", "cifar10"], ["table"]):
        monkeypatch.setattr("sys.argv", ["study", *command, "--results", str(tmp_path)])
        main()
    lines = capsys.readouterr().out.splitlines()
    assert "open  validation    600  vicreg, rate 4e-3, seed 0" in lines[:2]
    assert "done  validation    600  barlow, seed 0" in lines
    assert "| self-supervised | barlow | 12.3 | 12.3 |" in lines


def test_results_are_in_the_repository_unless_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [f"--{what}={tmp_path}" for what in ("root", "images", "teacher")]
    monkeypatch.setattr("sys.argv", ["study", "run", "cifar10", *paths, "--only", "nothing"])
    with pytest.raises(SystemExit, match="No candidates of cifar10: nothing"):
        main()
    monkeypatch.setattr("sys.argv", ["study", "list", "cifar10"])
    main()
    wanted = [line[6:] for line in capsys.readouterr().out.splitlines()]
    every = plan(CIFAR10, range(5), read(CIFAR10, FOLDER / "cifar10"))
    assert wanted == [f"{r.split:10} {r.rung:>6}  {r.name}, seed {r.seed}" for r in every]
