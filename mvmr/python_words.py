"""Messages of the library in the words of Python.

Messages name commands, as they are typed in a shell; the terminal adds to them the options of the
experiment (`stages/terminal/proposal.py`). Here each becomes the call that does the same.
"""

import re
from collections.abc import Callable

_PACK = "mvmr.pack(images, path{})"
_TRAIN = "`mvmr.distil(...)` or `mvmr.pretrain(...)`"

# Whole phrases, whose options have no counterpart as a command.
_PHRASES: tuple[tuple[str, str], ...] = (
    (r" \(under DVC: [^)]*\)", ""),
    (r"`dvc repro[^`]*`, or ", ""),
    (r"; --force \w+ (?:them )?again", ""),
    (
        r"Change to the root of the project, set one up with `mvmr init`, or name a file with "
        r"--config",
        "Name another file, or one of mvmr.configs()",
    ),
    (
        r", so --teacher replaces none\. Leave --teacher out, or start --from a config",
        ": start from one",
    ),
    (
        r"Set dataset\.split\.(\w+) to a share,? such as ([\d.]+), and run `mvmr shard`",
        r"Pack them with a share of such images: `mvmr.pack(images, path, \1=\2)`",
    ),
    (r"Set dataset\.source\.root to the folder", "Name the folder"),
    (r"set dataset\.shards\.on_bad_image to skip", 'pass on_bad_image="skip" to mvmr.pack'),
    (r"raise dataset\.split\.(\w+)", r"pass a larger \1= to mvmr.pack"),
    (r"lower the batch size \(train\.batch_size\)", "lower the batch size"),
    (r"with --skip-unreadable\. Nothing has been written", "with skip_unreadable=True"),
    (r"leave --scheduler out", "leave scheduler out"),
    (r"Repeat the command with `--batch-size (\d+)`", r"Repeat the call with batch_size=\1"),
    (r"name another place by --data", "name another folder"),
    (r"use --config to name an experiment that has this `student`", "hand over its `student`"),
    (r"`mvmr report` with the run's config", "`run.report()`"),
    (r"run `mvmr evaluate`", "repeat the call that made the run"),
    (r"Another `mvmr shard` is packing", "Another process is packing"),
)

# The call that does what a command does, from the command's words after its name.
_CALLS: dict[str, Callable[[str], str]] = {
    "shard": lambda options: f"`{_PACK.format(', force=True' if '--force' in options else '')}`",
    "extract-features": lambda options: f"`{_extract(options)}`",
    "train": lambda _: _TRAIN,
    "report": lambda _: "`run.report()`",
    "export": lambda _: "`run.export()`",
    "use": lambda _: "`mvmr.configs()`",
}
_COMMAND = re.compile(r"`mvmr ([a-z-]+)([^`]*)`(?! in a shell)")


def in_words_of_python(text: str) -> str:
    """Return a message with calls for commands; a command that has no call is one for a shell."""
    for phrase, words in _PHRASES:
        text = re.sub(phrase, words, text)
    return _COMMAND.sub(_call, text)


def _call(found: "re.Match[str]") -> str:
    name, options = found.groups()
    return _CALLS[name](options) if name in _CALLS else f"{found[0]} in a shell"


def _extract(options: str) -> str:
    named = re.search(r"--only (\S+)", options)
    features = f"{{{named[1]!r}: ...}}" if named else "{...}"
    return f"mvmr.extract({features}, data{', force=True' if '--force' in options else ''})"
