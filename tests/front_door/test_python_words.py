"""Messages that name commands name calls in Python."""

import ast
import re
from collections.abc import Iterator

import pytest
from pages import ROOT

from mvmr.arrays import watched
from mvmr.public_calls import public
from mvmr.python_words import in_words_of_python
from pipeline.base.errors import MvmrError, StoreError
from pipeline.base.progress import Silent

OPTION = re.compile(r"(?<![\w'-])--?[a-z][a-z-]*\b")
FOLDERS = ("pipeline", "stages/steps", "stages/experiment")


def messages() -> Iterator[str]:
    """Yield every message of the library that is raised or noted, with 77 in its gaps."""
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and _is_told(node.func):
                    yield from (text for one in node.args if (text := _text(one)))


def _is_told(function: ast.expr) -> bool:
    name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
    return name.endswith("Error") or name in ("note", "tell")


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if not isinstance(node, ast.JoinedStr):
        return ""
    parts = (v.value if isinstance(v, ast.Constant) else "77" for v in node.values)
    return "".join(map(str, parts))


MESSAGES = sorted(set(messages()))
OF_COMMANDS = [text for text in MESSAGES if "`mvmr " in text or OPTION.search(text)]


def test_the_library_names_commands_in_many_messages() -> None:
    assert len(MESSAGES) > 300
    assert len(OF_COMMANDS) > 30


@pytest.mark.parametrize("text", OF_COMMANDS)
def test_no_message_in_python_speaks_of_options_or_commands(text: str) -> None:
    found = in_words_of_python(text)
    left = re.sub(r"`[^`]*` in a shell|docker run [^)]*", "", found)
    assert "`mvmr " not in left
    assert "dvc" not in left
    assert OPTION.findall(left) == []
    assert in_words_of_python(found) == found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("run `mvmr shard`.", "run `mvmr.pack(images, path)`."),
        ("run `mvmr shard --force`.", "run `mvmr.pack(images, path, force=True)`."),
        (
            "`mvmr extract-features --only clip --force` fits it.",
            "`mvmr.extract({'clip': ...}, data, force=True)` fits it.",
        ),
        ("with `mvmr store verify --repair`.", "with `mvmr store verify --repair` in a shell."),
        (
            "Set dataset.split.test to a share such as 0.1, and run `mvmr shard`.",
            "Pack them with a share of such images: `mvmr.pack(images, path, test=0.1)`.",
        ),
    ],
)
def test_a_command_becomes_the_call_that_does_the_same(text: str, expected: str) -> None:
    assert in_words_of_python(text) == expected


def test_errors_and_notes_are_reworded_on_their_way_out() -> None:
    @public
    def fails() -> None:
        raise StoreError("It is missing: run `mvmr shard`.")

    with pytest.raises(MvmrError, match=r"^It is missing: run `mvmr\.pack\(images, path\)`\.$"):
        fails()

    class Heard(Silent):
        said = ""

        def note(self, text: str) -> None:
            self.said = text

    heard = Heard()
    with watched(heard) as progress:
        progress.note("All are stored; --force computes them again.")
    assert heard.said == "All are stored."
