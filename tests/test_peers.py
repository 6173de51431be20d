"""The comparison with a peer: which runs it wants, what equal time means, what its tables say."""

import ast
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.markdown import write as write_table
from benchmarks.peers.__main__ import main
from benchmarks.peers.order import at_equal_time, control, on_test, plan
from benchmarks.peers.runs import PEER_PROCESS, Comparison, Given
from benchmarks.peers.tables import NAME, tables
from benchmarks.peers.ways import (
    CONTROLS,
    OUR_WAYS,
    OURS,
    PEERS,
    TEACHER,
    WAYS,
    experiment,
    recipe,
)
from benchmarks.study.halving import Result, Results, Run
from benchmarks.study.records import identifier, results_in, write
from benchmarks.study.setups import filled
from benchmarks.study.tables import NOTHING
from benchmarks.timing import cost_of_process
from stages.experiment.schema import from_sections

ROOT = Path(__file__).parents[1]
PEER = next(iter(PEERS))
BUDGETS = (188, 376)
PREPARATION = 200.0


def result(cpu: float, score: float = 50.0, **more: Any) -> Result:
    scores = {"linear": score, "knn": score + 1, "retrieval": score + 2}
    return {"seconds": {"cpu": cpu, "wall": 2 * cpu}, "scores": scores, **more}


def ours(cpu: float, epochs: int, score: float = 80.0) -> Result:
    return result(cpu, score, steps=47 * epochs, epochs=epochs)


def some(theirs: float) -> dict[Run, Result]:
    """Return ours after 4 epochs of 100 seconds, and a peer's run that took some seconds."""
    return {
        control(TEACHER): result(PREPARATION),
        on_test(OURS, 188, 0): ours(400.0, 4),
        on_test(PEER, 188, 0): result(theirs),
    }


@pytest.mark.parametrize(("theirs", "epochs"), [(1010.0, 8), (599.0, 3), (600.0, 4), (300.0, 1)])
def test_equal_time_has_the_epochs_that_fit_after_the_preparation(
    theirs: float, epochs: int
) -> None:
    assert at_equal_time(on_test(PEER, 188, 0), some(theirs)) == Run(OURS, 47 * epochs, 0, "test")


def test_equal_time_needs_room_for_an_epoch_and_all_three_results() -> None:
    peer = on_test(PEER, 188, 0)
    assert at_equal_time(peer, some(299.0)) is None
    for missing in some(1010.0):
        left = {run: found for run, found in some(1010.0).items() if run != missing}
        assert at_equal_time(peer, left) is None


def follow(seeds: tuple[int, ...]) -> list[Run]:
    """Do all that is wanted, one run after the other, where each way takes other times."""
    results: dict[Run, Result] = {}
    while left := [run for run in plan(BUDGETS, seeds, results) if run not in results]:
        run = left[0]
        is_ours = run.name in OUR_WAYS
        slow = 10.0 + 3 * len(run.name) + run.seed
        results[run] = ours(5.0 * run.rung, run.rung // 47) if is_ours else result(run.rung * slow)
    return list(results)


def test_a_budget_and_its_equal_times_are_done_before_the_next_one() -> None:
    runs = follow((0, 1))
    assert [run.name for run in runs[:2]] == list(CONTROLS)
    first = [run.rung for run in runs].index(376)
    assert {r.name for r in runs[2:first] if r.rung == 188 and r.seed == 1} == set(WAYS)
    longer = [run for run in runs[2:first] if run.rung != 188]
    assert longer
    assert {run.name for run in longer} == {OURS}
    assert {run.rung % 47 for run in longer} == {0}


def done() -> Results:
    return {
        **some(1010.0),
        on_test(OURS, 8 * 47, 0): ours(790.0, 8, score=83.25),
        on_test(PEER, 188, 0): result(1010.0, 75.0, size=260),
    }


def test_leads_at_equal_steps_and_at_equal_time() -> None:
    found = tables(done())
    at_steps = f"| {PEER} | 188 | steps | 188 | 600 | 1,010 | +5.0 | +5.0 | +5.0 | 1 |"
    in_time = f"| {PEER} | 188 | time | 376 | 990 | 1,010 | +8.2 | +8.2 | +8.2 | 1 |"
    assert at_steps in found
    assert in_time in found
    assert f"| {PEER} | 188 | 1,010 | 2,020 | | 260 px | 75.0 | 76.0 | 77.0 | 1 |" in found
    assert tables({}) == NOTHING


def test_several_seeds_are_paired() -> None:
    more = {
        on_test(OURS, 188, 1): ours(400.0, 4, score=84.0),
        on_test(PEER, 188, 1): result(90.0, 77.0),
        on_test(PEER, 188, 2): result(90.0, 10.0),
    }
    found = tables({**done(), **more})
    assert "| 188 | steps | 188 | 600 | 550 | +6.0 (-6.7 to +18.7) |" in found


def test_every_way_has_a_recipe_and_ours_are_experiments() -> None:
    paths = {"images": "images", "student": "student", "teacher": "teacher"}
    for way in OUR_WAYS:
        content = filled(experiment("one", way=way, epochs=4), paths)
        assert "$" not in json.dumps(from_sections(content).model_dump(mode="json"))
    assert all(recipe(name) for name in WAYS)
    assert len({identifier(name) for name in WAYS}) == len(WAYS)


def all_done(folder: Path) -> None:
    for name in CONTROLS:
        write(folder, control(name), result(PREPARATION))
    for name in OUR_WAYS:
        write(folder, on_test(name, 188, 0), {**ours(400.0, 4), "recipe": recipe(name)})
    for name in PEERS:
        write(folder, on_test(name, 188, 0), {**result(600.0), "recipe": recipe(name)})


def comparison(folder: Path, peer_python: Path) -> Comparison:
    absent = folder / "absent"
    given = Given(images=absent, student=absent, teacher=absent, peer_python=peer_python)
    return Comparison(given, root=folder / "work", results=folder / "results")


def test_what_is_there_is_not_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    all_done(tmp_path / "results")
    before = results_in(tmp_path / "results", recipe)
    comparison(tmp_path, tmp_path / "absent").go_on([], [188], [0])
    assert results_in(tmp_path / "results", recipe) == before
    assert not list((tmp_path / "work").iterdir())


def test_a_result_of_other_settings_is_refused(tmp_path: Path) -> None:
    changed = {**(recipe(PEER) or {}), "view_size": 96}
    write(tmp_path, on_test(PEER, 188, 0), {**result(1.0), "recipe": changed})
    with pytest.raises(SystemExit, match="was made by another recipe"):
        results_in(tmp_path, recipe)


def test_the_peers_process_imports_nothing_of_ours() -> None:
    tree = ast.parse(PEER_PROCESS.read_text(encoding="utf-8"))
    names = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    names |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    tops = {name.partition(".")[0] for name in names}
    assert "lightly_train" in tops
    assert tops.isdisjoint({"benchmarks", "pipeline", "stages", "mvmr"})


BURN = "import time\nwhile time.process_time() < 0.5: pass"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BURN!r}])"


def test_the_time_of_a_process_has_that_of_its_children(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    command = [sys.executable, "-c", PARENT]
    cost = cost_of_process(command, folder=tmp_path, environment=dict(os.environ), log=log)
    assert 0.5 <= cost.cpu < 2
    assert cost.wall >= 0.5


def test_a_process_that_fails_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"ended with 3; .*log\.txt ends:\nno such network"):
        cost_of_process(
            [sys.executable, "-c", "import sys; print('no such network'); sys.exit(3)"],
            folder=tmp_path,
            environment=dict(os.environ),
            log=tmp_path / "log.txt",
        )


def test_the_page_of_results_has_a_place_for_the_tables(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    page.write_bytes((ROOT / "docs" / "results.md").read_bytes())
    write_table(page, NAME, "| new |\n")
    assert "| new |" in page.read_text(encoding="utf-8")


def test_the_command_lists_prints_and_wants_one_core(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, on_test(PEER, 188, 0), {**result(600.0), "recipe": recipe(PEER)})
    for command in (["list"], ["table"]):
        monkeypatch.setattr("sys.argv", ["peers", *command, "--results", str(tmp_path)])
        main()
    lines = capsys.readouterr().out.splitlines()
    assert f"done  test          188  {PEER}, seed 0" in lines
    assert f"open  test          188  {OURS}, seed 0" in lines
    assert any(line.startswith(f"| {PEER} | 188 | 600 |") for line in lines)
    if len(os.sched_getaffinity(0)) > 1:
        places = ("root", "images", "student", "teacher", "peer-python")
        options = [part for name in places for part in (f"--{name}", "x")]
        monkeypatch.setattr("sys.argv", ["peers", "run", *options])
        with pytest.raises(SystemExit, match="taskset -c 0"):
            main()
