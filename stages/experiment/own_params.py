"""The experiment file of a project of one's own: a config with some values replaced.

The comments of the config stay beside its keys; those at its beginning, which say what it is for,
give way to others.
"""

from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import CommentMark
from ruamel.yaml.tokens import CommentToken

from pipeline.base.errors import ConfigError
from pipeline.base.own_code import PREFIX
from pipeline.representations.kinds import KINDS
from pipeline.representations.teachers.frozen import TeacherOptions
from stages.experiment.for_student import for_student

WIDTH = 100
TEACHER = "teacher"
BLANK_LINE = CommentToken("\n\n", CommentMark(0), None)
NOTED_AT = 30  # the column of comments


class OwnParams:
    """A config that is being made one's own."""

    def __init__(self, config: Path) -> None:
        self._yaml = YAML()
        self._yaml.width = WIDTH
        self._yaml.preserve_quotes = True
        text = config.read_text(encoding="utf-8")
        lines = text.splitlines(keepends=True)
        first = next(n for n, line in enumerate(lines) if line.strip() and line[0] != "#")
        self._head, self.path = "".join(lines[:first]), config
        self._data: CommentedMap = self._yaml.load("".join(lines[first:]))

    @property
    def config(self) -> str:
        """The name of the config."""
        return self.path.stem

    @property
    def sections(self) -> dict[str, Any]:
        """The sections as plain values, as an experiment file is read."""
        values: dict[str, Any] = YAML(typ="safe", pure=True).load(self._text())
        return values

    def set(self, key: str, value: Any) -> None:
        """Set a dotted key. A value is written in one line, a section with a line for each.

        A new key stands before the last one, which the blank line between sections belongs to.
        """
        *parents, last = key.split(".")
        node = self._data
        for parent in parents:
            node = node[parent]
        new = _in_one_line(value) if parents else _section(value)
        if last in node:
            node[last] = new
        else:
            node.insert(len(node) - 1, last, new)

    def set_name(self, name: str) -> None:
        """Name the experiment and its data set."""
        self._data["name"] = name
        dataset = self._data["dataset"]
        dataset["name"] = name
        dataset.ca.items.pop("name", None)
        dataset.yaml_add_eol_comment(f"folder data/{name}", "name", column=NOTED_AT)

    def set_student(self, section: Mapping[str, str]) -> None:
        """Take another network as the student; the stem is of the one before, its projector stays.

        Code of one's own, `python:package.module:function`, is trusted: who names it wants it run.
        Other sections change as suits the student.
        """
        architecture = section["architecture"]
        student = self._data["student"]
        for key in ("stem", "maxpool", "zero_init_residual", "weights"):
            student.pop(key, None)
        student["architecture"] = architecture
        student.ca.items.pop("architecture", None)
        alone = len(student) == 1
        if architecture.startswith(PREFIX):
            student.insert(1, "trust", True)
        if "weights" in section:
            student.insert(1, "weights", section["weights"])
        channels = self._data["dataset"]["image"]["channels"]
        recipe = self._data["train"]
        trains = isinstance(recipe, Mapping)
        suited = for_student(
            section, recipe if trains else {}, taught=bool(self._teachers), channels=channels
        )
        for key, value in suited.image.items():
            self.set(f"dataset.image.{key}", value)
        for key, value in suited.train.items() if trains else ():
            self.set(f"train.{key}", value)
        if alone:
            student.ca.items[[*student][-1]] = [None, None, BLANK_LINE, None]

    def set_teacher(self, section: Mapping[str, Any]) -> None:
        """Replace the only teacher of the config, and name it `TEACHER` throughout.

        Raises ConfigError if the config has none, or several.
        """
        features, found = self._data["features"], self._teachers
        if len(found) != 1:
            number = "no teacher" if not found else f"{len(found)} teachers"
            raise ConfigError(
                f"The config {self.config!r} has {number}, so --teacher replaces none. Leave "
                "--teacher out, or start --from a config with one, such as folder_clip."
            )
        (old,) = found
        self._data["features"] = _renamed({**features, old: section}, old)
        terms = self._data["objective"]
        for term in terms.values():
            if term.get("representation") == old:
                term["representation"] = TEACHER
        self._data["objective"] = _renamed(terms, old)
        for protocol in self._data["evaluate"].values():
            if protocol.get("teacher") == old:
                protocol["teacher"] = TEACHER

    @property
    def _teachers(self) -> list[str]:
        """The names of the features that are a teacher's vectors."""
        features = self._data["features"]
        return [name for name, options in features.items() if _is_teacher(name, options)]

    def text(self, head: Sequence[str] | None = None) -> str:
        """Return the whole file; the lines of `head` replace the comments at its beginning."""
        if head is None:
            return self._head + self._text()
        return "".join(f"# {line}".rstrip() + "\n" for line in head) + "\n" + self._text()

    def _text(self) -> str:
        out = StringIO()
        self._yaml.dump(self._data, out)
        return out.getvalue()


def _is_teacher(name: str, options: Mapping[str, Any]) -> bool:
    kind = KINDS.get(options.get("kind", name))
    return kind is not None and issubclass(kind, TeacherOptions)


def _renamed(section: Mapping[str, Any], old: str) -> CommentedMap:
    return _section({TEACHER if name == old else name: each for name, each in section.items()})


def _section(value: Mapping[str, Any]) -> CommentedMap:
    return CommentedMap((name, _in_one_line(each)) for name, each in value.items())


def _in_one_line(value: Any) -> Any:
    if isinstance(value, list | tuple):
        items = CommentedSeq(value)
        items.fa.set_flow_style()
        return items
    if isinstance(value, CommentedMap) or not isinstance(value, Mapping):
        return value
    inner = CommentedMap((name, _in_one_line(each)) for name, each in value.items())
    inner.fa.set_flow_style()
    return inner
