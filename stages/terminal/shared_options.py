"""Options that several commands share, and the function by which a command runs its stage."""

import importlib
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

from pipeline.base.processes import is_first_process
from stages.experiment.chosen import Chosen
from stages.experiment.dvc_links import void_links
from stages.terminal import completion, interruption, proposal
from stages.terminal.checks import require_checkpoint, require_names

Command = TypeVar("Command", bound=Callable[..., Any])
Section = Literal["features", "evaluate"]


def output_options(command: Command) -> Command:
    """Add --quiet and --json."""
    for option in (
        click.option(
            "--json",
            "as_json",
            is_flag=True,
            help="Print the result as one JSON document; everything else goes to standard error.",
        ),
        click.option("-q", "--quiet", is_flag=True, help="Print only errors and --json output."),
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
        help="Folder of the data sets, or a URL such as s3://bucket/path.",
    )(command)


def auto_options(command: Command) -> Command:
    """Add --auto-lr and --auto-batch-size."""
    for option in (
        click.option(
            "--auto-batch-size",
            is_flag=True,
            help="Find the batch size by trial: the largest that runs and fits in memory.",
        ),
        click.option(
            "--auto-lr",
            is_flag=True,
            help="Find the learning rate by trial instead of using the given one.",
        ),
    ):
        command = option(command)
    return command


def only_option(section: Section, text: str) -> Callable[[Command], Command]:
    """Add --only, which takes names from a section of the experiment file."""
    return click.option(
        "--only",
        multiple=True,
        metavar="NAME",
        help=text,
        shell_complete=completion.names_of_section(section),
    )


def call(
    stage: str,
    *,
    quiet: bool,
    as_json: bool,
    check: bool = True,
    section: Section | None = None,
    **options: Any,
) -> int:
    """Run `module:function` of a stage, print its result, and return the exit code.

    The experiment is checked first, with little more than torch loaded; `check` is False if the
    stage may do without one. Names given by --only must occur in its `section`. Importing the
    stage, which comes next, may take seconds. A signal during either ends the program at once.
    """
    from stages.terminal.console import Screen

    name, _, function = stage.partition(":")
    context = click.get_current_context()
    proposal.remember(context.find_root().command, options)
    silent = not is_first_process()  # of several processes, only the first prints
    with Screen(quiet=quiet or silent, as_json=as_json) as screen:
        interruption.tell_by(screen.progress.note)
        screen.progress.start("loading libraries", 0, "")
        with interruption.at_once():
            if options.get("checkpoint") is not None:
                require_checkpoint(options["checkpoint"])
            if "config" in options:
                chosen = Chosen(options.pop("config"), options.pop("assignments"))
                if check:
                    experiment = chosen.experiment
                    if section is not None:
                        require_names(section, options["only"], getattr(experiment, section))
                options["chosen"] = chosen
            module = importlib.import_module(f"stages.{name}")
        screen.progress.finish()
        if not silent:
            void_links()
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
        if result.afterwards:
            screen.print(f"Then: {shlex.join(result.afterwards)}")
    return 0 if result.ok else 1
