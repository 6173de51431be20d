"""`mvmr store keep`: the last stage of `dvc repro`, after which no result can get lost."""

from stages.experiment.chosen import Chosen
from stages.experiment.dvc_links import void_links
from stages.experiment.finished import kept_results, share
from stages.experiment.paths import run_layout
from stages.experiment.run_identity import keep_training
from stages.terminal.console import Screen
from stages.terminal.result import Result


def store_keep(screen: Screen, *, chosen: Chosen) -> Result:
    """Keep the finished results of the run, and make DVC's record of its links void."""
    run = run_layout(chosen.experiment.name)
    screen.progress.start("keep results", 0, "")
    keep_training(run)
    share(run.root)
    void_links()
    kept = [result.what for result in kept_results() if result.run == run.root.name]
    return Result({"kept": kept}, ["All results are kept."])
