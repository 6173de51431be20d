"""The command `mvmr`: one sub-command a stage, imported only when it is called."""

import errno
import importlib
import os
import sys

import click

# In the order of the pipeline: name -> (module, one line of help).
COMMANDS = {
    "use": ("stages.use", "Check a config and make it the active experiment."),
    "shard": ("stages.shard", "Pack the images into WebDataset tars."),
    "extract-features": ("stages.extract_features", "Compute every representation, once."),
    "train": ("stages.train", "Train the student on images and cached targets."),
    "evaluate": ("stages.evaluate", "Score the student beside its controls."),
    "report": ("stages.report", "Write one HTML page about a run."),
    "export": ("stages.export", "Write the trained backbone for other programs."),
    "store": ("stages.store", "Look at the feature store, check it, or clean up."),
}


class LazyGroup(click.Group):
    """Lists the commands without importing them, so that `--help` answers at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order of the pipeline."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of a command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(COMMANDS[cmd_name][0])
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Name the nearest command where one is misspelt."""
        from pipeline.errors import unknown_name

        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(unknown_name("command", args[0], COMMANDS), ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mvmr")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Train a small image encoder on images and cached representations.

    `dvc repro` runs the active experiment, params.yaml; each command below is one of its stages.
    """
    del debug


def main() -> None:
    """Run the command; an expected error is one sentence, exit code 1, or 2 for wrong usage."""
    # Idle threads sleep rather than spin: where cores are shared, small operations are then
    # several times faster. It must be set before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run the command line and return its exit code."""
    from pipeline.errors import ConfigError, MvmrError

    if "--debug" in arguments:
        os.environ["MVMR_DEBUG"] = "1"
    try:
        result = cli.main(args=arguments, prog_name="mvmr", standalone_mode=False)
    except click.UsageError as error:
        error.show()
        return 2
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted. The same command goes on from what is finished.", err=True)
        return 1
    except MvmrError as error:
        if "MVMR_DEBUG" in os.environ:
            raise
        click.echo(f"Error: {error}", err=True)
        return 2 if isinstance(error, ConfigError) else 1
    except OSError as error:
        if "MVMR_DEBUG" in os.environ:
            raise
        click.echo(f"Error: {_of_the_system(error)}", err=True)
        return 1
    return result if isinstance(result, int) else 0


def _of_the_system(error: OSError) -> str:
    """Say what the operating system refuses, and what to do where that is known."""
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"No space is left on the disk{where}. Make room and run the same command again: it "
            "goes on from what is finished."
        )
    return f"{error.strerror or error}{where}."
