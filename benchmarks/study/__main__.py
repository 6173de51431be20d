"""A study of which objective makes the best encoder in one small budget.

    python -m benchmarks.study search  --root DIR --images DIR --teacher DIR
    python -m benchmarks.study confirm --root DIR --images DIR --teacher DIR
    python -m benchmarks.study table   --root DIR --write docs/results.md

`search` trains every candidate with one seed and scores it on validation images. `confirm` takes
the best candidate of every group, trains it with three seeds, and reads the test images once for
each. `table` makes the tables from the results of both.

Every run has the same student, split, length and cached features, which are computed once below
DIR. Existing results are not recomputed, and an interrupted run resumes where it was saved, so
each command can simply be started again. Use `--only` to divide the candidates among processes.
`--set` changes the budget of all runs (`--set train.epochs=200`); use another DIR for each budget.
"""

import argparse
from pathlib import Path

from benchmarks.study.candidates import CANDIDATES
from benchmarks.study.runs import Study, read
from benchmarks.study.tables import chosen, results, tried, write


def main() -> None:
    """Run one of the commands."""
    arguments = _parser().parse_args()
    study = Study(arguments.root, arguments.images, arguments.teacher, arguments.set)
    if arguments.command == "list":
        for name, candidate in CANDIDATES.items():
            print(f"{candidate.group:34} {name}")
    elif arguments.command == "table":
        print(results(read(study.confirmed)), tried(read(study.searched)), sep="\n")
        if arguments.write:
            write(arguments.write, searched=study.searched, confirmed=study.confirmed)
    elif arguments.command == "search":
        study.prepare()
        study.search(arguments.only or list(CANDIDATES))
    else:
        study.prepare()
        study.confirm(arguments.only or chosen(read(study.searched)), arguments.seeds)
        study.controls(arguments.seeds)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.study",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=("search", "confirm", "table", "list"))
    parser.add_argument("--root", type=Path, default=Path("runs/study"))
    parser.add_argument("--images", type=Path, default=Path("data/raw/cifar10"))
    parser.add_argument("--teacher", type=Path, default=Path("data/raw/teacher"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=CANDIDATES, metavar="CANDIDATE")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--write", type=Path, help="write the tables to this Markdown file")
    return parser


if __name__ == "__main__":
    main()
