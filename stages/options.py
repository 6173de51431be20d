"""Options that several commands share, and how a command calls its stage."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from pipeline.processes import is_first_process
from stages import completion, early, interruption, proposal

Command = TypeVar("Command", bound=Callable[..., Any])


def output_options(command: Command) -> Command:
    """Add --quiet and --json."""
    for option in (
        click.option(
            "--json",
            "as_json",
            is_flag=True,
            help="Print the result as one JSON document; all else goes to standard error.",
        ),
        click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors and --json."),
    ):
        command = option(command)
    return command


def experiment_options(command: Command) -> Command:
    """Add --config, -s, --quiet and --json."""
    command = output_options(command)
    for option in (
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
            default="params.yaml",
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


def only_option(section: str, text: str) -> Callable[[Command], Command]:
    """Add --only, for the names of a section of the experiment file."""
    return click.option(
        "--only",
        multiple=True,
        metavar="NAME",
        help=text,
        shell_complete=completion.names_of_section(section),
    )


def call(stage: str, *, quiet: bool, as_json: bool, **options: Any) -> int:
    """Call `module:function` of a stage, print what it hands back, and return the exit code.

    The module is imported only now, as most take seconds to; a signal meanwhile ends all at once.
    """
    from stages.console import Screen

    name, _, function = stage.partition(":")
    context = click.get_current_context()
    proposal.remember(context.find_root().command, options)
    early.check(name, options)
    silent = not is_first_process()  # the first of several speaks for all
    with Screen(quiet=quiet or silent, as_json=as_json) as screen:
        interruption.tell_by(screen.progress.note)
        screen.progress.start("loading libraries", 0, "")
        with interruption.at_once():
            module = importlib.import_module(f"stages.{name}")
            _remember_names()
        screen.progress.finish()
        result = getattr(module, function)(screen, **options)
    if silent:
        return 0 if result.ok else 1
    if as_json:
        command = context.command_path.removeprefix("mvmr ")
        click.echo(result.document(command, screen.told))
    else:
        screen.print(*result.shown)
        if following := result.next_command():
            screen.print(f"Next: {following}")
    return 0 if result.ok else 1


def _remember_names() -> None:
    """Keep the names that an experiment may hold, for the next command, where it is loaded."""
    if experiment := sys.modules.get("stages.experiment"):
        from stages import naming

        naming.remember(experiment.Experiment)
