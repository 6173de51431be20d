"""Which runs are wanted, in which order; how many steps of ours take as long as a peer's run."""

from collections.abc import Iterator, Sequence

from benchmarks.peers.ways import CONTROLS, OURS, PEERS, TEACHER, WAYS
from benchmarks.study.halving import CHOICE_SEED, CONTROL_RUNG, Result, Results, Run


def plan(budgets: Sequence[int], seeds: Sequence[int], results: Results) -> Iterator[Run]:
    """Yield all that is known to be wanted, whether it is done or not, in the order of work.

    The rung of a run is its number of steps.
    """
    yield from map(control, CONTROLS)
    for steps in budgets:
        for seed in seeds:
            yield from (on_test(name, steps, seed) for name in WAYS)
            peers = (on_test(name, steps, seed) for name in PEERS)
            yield from filter(None, (at_equal_time(run, results) for run in peers))


def on_test(name: str, steps: int, seed: int) -> Run:
    """Return a run that is scored on test images."""
    return Run(name, steps, seed, "test")


def control(name: str) -> Run:
    """Return the run of what is not trained."""
    return on_test(name, CONTROL_RUNG, CHOICE_SEED)


def at_equal_time(peer: Run, results: Results) -> Run | None:
    """Return ours with the whole epochs that fit into the CPU time of a peer's run.

    The whole preparation counts as ours: packing the photographs and computing the teacher's
    vectors. An epoch takes what it took on average in our run of as many steps as the peer's. None
    if results are missing, or if not even one epoch fits.
    """
    theirs, same_steps = results.get(peer), results.get(on_test(OURS, peer.rung, peer.seed))
    prepared = results.get(control(TEACHER))
    if theirs is None or same_steps is None or prepared is None:
        return None
    epoch = cpu_seconds(same_steps) / same_steps["epochs"]
    epochs = int((cpu_seconds(theirs) - cpu_seconds(prepared)) / epoch)
    return on_test(OURS, epochs * steps_an_epoch(same_steps), peer.seed) if epochs > 0 else None


def cpu_seconds(result: Result) -> float:
    """Return the CPU time of a training, or of the preparation."""
    return float(result["seconds"]["cpu"])


def steps_an_epoch(result: Result) -> int:
    """Return the steps of one of our epochs."""
    return int(result["steps"] // result["epochs"])
