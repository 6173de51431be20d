"""Labels as they stand in files of others, numbers or names of classes, and what they mean here."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pipeline.base.errors import DataError, unknown_name
from pipeline.datasets.source import Label, MultiLabel

Written = int | str  # a class's number or name
WrittenLabel = Written | list[Written] | None


def written_label(value: Any, where: str) -> WrittenLabel:
    """Return a label as it stands in a file: a class, a list of classes, or None if there is none.

    -1 and NaN stand for no label, as in data sets of Hugging Face. Raises DataError for any other
    value that is no class's number or name.
    """
    if isinstance(value, list | tuple):
        classes = [_written(one, where) for one in value]
        if None in classes:
            raise DataError(f"{where}: a list of classes has a place without one: {value!r}.")
        return [one for one in classes if one is not None]
    return _written(value, where)


def _written(value: Any, where: str) -> Written | None:
    if value in (None, "", -1, "-1") or value != value:
        return None
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if isinstance(value, float) and value.is_integer():  # integers with gaps, as pandas writes them
        value = int(value)
    if not isinstance(value, int | str) or isinstance(value, bool):
        raise DataError(f"{where}: a label is a class's number or name; found {value!r}.")
    return value


@dataclass(frozen=True)
class WrittenClasses:
    """The classes that labels of a data set stand for; `names` is None if there are no labels.

    If the names were `given`, a number is a place among them, and else a name of its own.
    """

    names: tuple[str, ...] | None
    given: bool

    @classmethod
    def of(cls, labels: Iterable[WrittenLabel], given: Sequence[str] | None) -> "WrittenClasses":
        """Return the classes that are given, or else those that occur, sorted.

        Raises DataError if some labels are numbers and others are names.
        """
        if given is not None:
            return cls(tuple(given), given=True)
        occurring = {one for label in labels for one in _classes(label)}
        numbers = {label for label in occurring if isinstance(label, int)}
        names = {label for label in occurring if isinstance(label, str)}
        if numbers and names:
            raise DataError(
                "Some labels are numbers and others names: list all names in "
                "dataset.source.classes."
            )
        if not occurring:
            return cls(None, given=False)
        # Numbers may be identifiers with gaps, so only those that occur are classes.
        return cls(tuple(map(str, sorted(numbers))) or tuple(sorted(names)), given=False)

    def label(self, written: WrittenLabel, where: str) -> Label | None:
        """Return a label by the places of its classes; a list becomes a MultiLabel.

        Raises DataError if a class is none of them.
        """
        if written is None:
            return None
        if isinstance(written, list):
            return MultiLabel(tuple(sorted({self._place(one, where) for one in written})))
        return self._place(written, where)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.names or ())}

    def _place(self, label: Written, where: str) -> int:
        if isinstance(label, int) and self.given:
            if not 0 <= label < len(self._index):
                raise DataError(
                    f"{where}: class {label} is not one of the {len(self._index)} classes."
                )
            return label
        if isinstance(label, int) and label < 0:
            raise DataError(f"{where}: {label} is not the number of a class.")
        if str(label) not in self._index:
            raise DataError(f"{where}: {unknown_name('class', str(label), self._index)}")
        return self._index[str(label)]


def _classes(label: WrittenLabel) -> Sequence[Written]:
    if label is None:
        return ()
    return label if isinstance(label, list) else (label,)
