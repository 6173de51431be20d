"""Distillation beside a peer: lightly-train 0.18 with the same teacher, student and photographs.

    python -m venv PEER && PEER/bin/pip install lightly-train==0.18.0 timm
    OMP_NUM_THREADS=1 taskset -c 0 python -m benchmarks.peers run --root DIR --images DIR
        --student FILE --teacher FILE --peer-python PEER/bin/python [--only NAME ...] [--seeds 0]
    python -m benchmarks.peers list
    python -m benchmarks.peers table [--write docs/results.md]

The student is timm's tf_efficientnet_lite0, which starts from the weights in `--student`, the
teacher tf_efficientnet_lite2 from those in `--teacher`, both as safetensors. `--images` has train,
validation and test, with a folder for each class. The peer (AGPL-3.0) is no dependency of this
project: its Python is started with one file of settings for each training
(`lightly_process.py`), without access to this project's code, and downloads nothing.

`ways.py` has what is compared: ours with stored vectors of the teacher; the same student, trained
with labels; the peer with a live teacher and our settings, at the sizes that may be asked for; the
peer's methods with their own settings. Each is trained for each of `--steps`; ours also for the
whole epochs that fit into the CPU time of each peer's run, with the time of packing the photographs
and computing the teacher's vectors counted in full (`order.py`). Both sides have one core, one
thread and no loader processes. Times are those of whole processes with their children: CPU seconds,
which other programs hardly change, and seconds by the clock, with those before and after the
training itself. Students are scored by the same code; the peer's also at the size it was trained
at, and the size that is better on validation images counts.

Each result is one file in `--results`, which is part of the repository. What is there is not
computed again. A training that was interrupted starts anew, since its time counts.
"""

import argparse
import os
import signal
from pathlib import Path

from benchmarks.markdown import write
from benchmarks.peers.order import plan
from benchmarks.peers.runs import Comparison, Given
from benchmarks.peers.tables import NAME, tables
from benchmarks.peers.ways import CONTROLS, WAYS, recipe
from benchmarks.study.records import results_in, state

FOLDER = Path(__file__).parent / "results"
BUDGETS = (188, 376)  # 4 and 8 epochs of the 3,068 training photographs


def main() -> None:
    """Run one of the commands."""
    arguments = _parser().parse_args()
    if arguments.command == "run":
        _run(arguments)
        return
    results = results_in(arguments.results, recipe)
    if arguments.command == "list":
        print("\n".join(state(plan(arguments.steps, arguments.seeds, results), results)))
        return
    text = tables(results)
    print(text)
    if arguments.write:
        write(arguments.write, NAME, text)


def _run(arguments: argparse.Namespace) -> None:
    if len(os.sched_getaffinity(0)) > 1:
        raise SystemExit("Both sides get one core: start this with `taskset -c 0`.")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # then its processes end with it
    given = Given(
        images=arguments.images,
        student=arguments.student,
        teacher=arguments.teacher,
        peer_python=arguments.peer_python,
    )
    comparison = Comparison(given, root=arguments.root, results=arguments.results)
    try:
        comparison.go_on(arguments.only, arguments.steps, arguments.seeds)
    except KeyboardInterrupt:
        raise SystemExit("Interrupted. The same command goes on.") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="do what is wanted and not done")
    run.add_argument("--root", type=Path, required=True, help="packed images, features, trainings")
    run.add_argument("--images", type=Path, required=True, help="a folder with train and test")
    run.add_argument("--student", type=Path, required=True, help="weights that it starts from")
    run.add_argument("--teacher", type=Path, required=True, help="its weights")
    run.add_argument("--peer-python", type=Path, required=True, help="has lightly-train and timm")
    run.add_argument("--only", nargs="+", default=[], choices=(*CONTROLS, *WAYS), metavar="NAME")
    listing = commands.add_parser("list", help="show what is wanted, and what of it is done")
    table = commands.add_parser("table", help="print the tables")
    table.add_argument("--write", type=Path, help="replace them in this Markdown file")
    for command in (run, listing):
        command.add_argument("--steps", type=int, nargs="+", default=BUDGETS)
        command.add_argument("--seeds", type=int, nargs="+", default=[0])
    for command in (run, listing, table):
        command.add_argument("--results", type=Path, default=FOLDER, help="its files of results")
    return parser


if __name__ == "__main__":
    main()
