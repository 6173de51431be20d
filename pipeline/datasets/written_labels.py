"""Labels as they stand in files of others, numbers or names of classes, and what they mean here."""

from collections.abc import Iterable, Mapping, Sequence
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


def class_names(
    labels: Iterable[WrittenLabel], given: Sequence[str] | None
) -> tuple[str, ...] | None:
    """Return the names of all classes: those that are given, or else those that occur.

    Numbers are their own names, and names are sorted. None if there are no labels. Raises DataError
    if some labels are numbers and others are names.
    """
    if given is not None:
        return tuple(given)
    occurring = {one for label in labels for one in _classes(label)}
    numbers = {label for label in occurring if isinstance(label, int)}
    names = {label for label in occurring if isinstance(label, str)}
    if numbers and names:
        raise DataError(
            "Some labels are numbers and others names: list all names in dataset.source.classes."
        )
    if not occurring:
        return None
    return tuple(map(str, range(1 + max(numbers)))) if numbers else tuple(sorted(names))


def label_of(written: WrittenLabel, index: Mapping[str, int], where: str) -> Label | None:
    """Return a label by the places of the names of classes; a list becomes a MultiLabel.

    Raises DataError if a class is none of them.
    """
    if written is None:
        return None
    if isinstance(written, list):
        return MultiLabel(tuple(sorted({_number(one, index, where) for one in written})))
    return _number(written, index, where)


def _classes(label: WrittenLabel) -> Sequence[Written]:
    if label is None:
        return ()
    return label if isinstance(label, list) else (label,)


def _number(label: Written, index: Mapping[str, int], where: str) -> int:
    if isinstance(label, int):
        if not 0 <= label < len(index):
            raise DataError(f"{where}: class {label} is not one of the {len(index)} classes.")
        return label
    if label not in index:
        raise DataError(f"{where}: {unknown_name('class', label, index)}")
    return index[label]
