"""Options that several commands share."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console

FILE_WIDTH = 120

Command = TypeVar("Command", bound=Callable[..., Any])


def experiment_options(command: Command) -> Command:
    """Add --config, -s and --quiet."""
    for option in (
        click.option("-q", "--quiet", is_flag=True, help="Print errors only."),
        click.option(
            "-s",
            "--set",
            "assignments",
            multiple=True,
            metavar="KEY=VALUE",
            help="Override a value, such as train.lr=1e-3; may be repeated.",
        ),
        click.option(
            "-c",
            "--config",
            type=click.Path(path_type=Path, dir_okay=False),
            default=Path("params.yaml"),
            show_default=True,
            help="The experiment file.",
        ),
    ):
        command = option(command)
    return command


def data_option(command: Command) -> Command:
    """Add --data."""
    return click.option(
        "--data",
        envvar="MVMR_DATA",
        default="data",
        show_default=True,
        metavar="PATH|URL",
        help="Where data sets lie; a URL such as s3://bucket/path too.",
    )(command)


def auto_options(command: Command) -> Command:
    """Add --auto-lr and --auto-batch-size."""
    for option in (
        click.option(
            "--auto-batch-size",
            is_flag=True,
            help="Find the batch size, likewise: the largest that runs and fits the memory.",
        ),
        click.option(
            "--auto-lr",
            is_flag=True,
            help="Find the learning rate by trying, instead of the given one.",
        ),
    ):
        command = option(command)
    return command


def console(*, quiet: bool = False) -> Console:
    """Return where results and progress go; a file gets lines of `FILE_WIDTH`."""
    width = None if sys.stdout.isatty() else FILE_WIDTH
    return Console(quiet=quiet, width=width)
