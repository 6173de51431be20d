"""The layout of help: commands by section, in the order of the pipeline, each with an example."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import click

from pipeline.base.errors import unknown_name

# Keys of an experiment that are looked for among the options.
KEYS = (
    *("train.epochs", "train.batch_size", "train.lr", "train.select", "train.precision"),
    *("train.optimizer", "train.parallel.devices", "train.loading.workers", "seed", "features"),
    *("dataset.image.size", "dataset.source.root", "student.architecture", "student.weights"),
)


class _WithExample(click.Command):
    """A command with an example, and the section and line under which its group lists it."""

    def __init__(
        self, *args: Any, example: str, section: str = "", line: str = "", **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self.example, self.section = example, section
        self.line = line or (self.help or "").split("\n")[0]

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example."""
        with formatter.section("Example"):
            formatter.write(f"{'':{formatter.current_indent}}$ {self.example}\n")


class OneOf(click.Choice[str]):
    """A choice of names that suggests the nearest one for a misspelt name."""

    def __init__(self, what: str, names: Sequence[str]) -> None:
        super().__init__(names)
        self._what = what

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        """Return the message for an unknown name."""
        del ctx
        return unknown_name(self._what, str(value), self.choices)


class StageCommand(_WithExample):
    """A command of the pipeline; it says how to set a key that was given as an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the options, or raise NoSuchOption that names the key which was meant."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            key = _key_meant(error.option_name)
            if key and any("-s" in parameter.opts for parameter in self.params):
                raise click.UsageError(
                    f"No such option {error.option_name}. Keys of the experiment are set with "
                    f"-s {key}=VALUE.",
                    ctx,
                ) from None
            raise


def _key_meant(option: str) -> str | None:
    """Return the key of `KEYS` whose last words an option has, or resembles."""
    by_words = {word: key for key in KEYS for word in (key, key.rpartition(".")[2])}
    word = option.lstrip("-").replace("-", "_")
    near = get_close_matches(word, by_words, n=1, cutoff=0.8)
    return by_words[near[0]] if near else None


class _Group(click.Group):
    """A group that lists its commands in order of declaration and corrects misspelt ones."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order of their declaration."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolve a command, or raise UsageError that suggests the nearest name."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            raise click.UsageError(unknown_name("command", args[0], self.commands), ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands by section, with an example below each."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            rows = sections.setdefault(getattr(command, "section", "") or "Commands", [])
            rows.append((name, getattr(command, "line", "")))
            rows.append(("", f"$ {getattr(command, 'example', '')}"))
        for section, rows in sections.items():
            with formatter.section(section):
                formatter.write_dl(rows)


class StageGroup(_Group, _WithExample):
    """A command of the pipeline that has subcommands."""


class PipelineGroup(_Group):
    """The top-level group, `mvmr` itself."""
