"""A study of which objective makes the best encoder in a given number of steps.

    python -m benchmarks.study run cifar10        --root DIR --images DIR --teacher DIR
    python -m benchmarks.study run photographs-64 --root DIR --images DIR --teacher FILE
    python -m benchmarks.study list cifar10
    python -m benchmarks.study table [--write docs/results.md]

It is a study by successive halving (`halving.py`): all candidates (`candidates.py`) for the fewest
steps, the better third of each track for more, the finalists and their references with five seeds,
on test images too. `setups.py` has the data sets. Each result is one file in `--results`, which is
part of the repository. What is there is not computed again, and a training that was interrupted
goes on where it was saved, so the same command continues the study on any day. Packed images,
features and trainings are in `--root`.

`--steps` leaves out longer trainings, `--only` all candidates but some, so that several processes
or machines can divide them. `timeout --signal INT 1h python -m benchmarks.study run ...` spends one
hour. The teacher of photographs is the state dict of timm's tf_efficientnet_lite0, from which the
student of photographs-128 starts too.
"""

import argparse
from pathlib import Path

from benchmarks.markdown import write
from benchmarks.study.halving import plan
from benchmarks.study.records import FOLDER, read, state
from benchmarks.study.runs import Study
from benchmarks.study.setups import SETUPS
from benchmarks.study.tables import tables

SEEDS = (0, 1, 2, 3, 4)


def main() -> None:
    """Run one of the commands."""
    arguments = _parser().parse_args()
    if arguments.command == "table":
        for name, setup in SETUPS.items():
            text = tables(setup, read(setup, arguments.results / name))
            print(text)
            if arguments.write:
                write(arguments.write, f"study {name}", text)
        return
    setup = SETUPS[arguments.setup]
    if arguments.command == "list":
        results = read(setup, arguments.results / setup.name)
        print("\n".join(state(plan(setup, SEEDS, results), results)))
        return
    unknown = set(arguments.only) - set(setup.candidates)
    if unknown:
        raise SystemExit(f"No candidates of {setup.name}: {', '.join(sorted(unknown))}.")
    study = Study(
        setup,
        root=arguments.root,
        results=arguments.results,
        images=arguments.images,
        teacher=arguments.teacher,
    )
    study.prepare(arguments.only or list(setup.candidates))
    study.go_on(arguments.only, SEEDS, arguments.steps)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.study",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="do what is wanted and not done")
    run.add_argument("setup", choices=SETUPS)
    run.add_argument("--root", type=Path, required=True, help="packed images, features, trainings")
    run.add_argument("--images", type=Path, required=True, help="a folder with train and test")
    run.add_argument("--teacher", type=Path, required=True, help="its folder, or its file")
    run.add_argument("--only", nargs="+", default=[], metavar="CANDIDATE")
    run.add_argument("--steps", type=int, help="leave out longer trainings")
    listing = commands.add_parser("list", help="show what is wanted, and what of it is done")
    listing.add_argument("setup", choices=SETUPS)
    table = commands.add_parser("table", help="print the tables of all data sets")
    table.add_argument("--write", type=Path, help="replace them in this Markdown file")
    for command in (run, listing, table):
        command.add_argument("--results", type=Path, default=FOLDER, help="its files of results")
    return parser


if __name__ == "__main__":
    main()
