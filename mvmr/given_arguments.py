"""Whether what a public function is given is of the kinds that its annotations name.

Annotations are promises to type checkers; here they are kept for everybody else. What does not fit
is refused by a sentence before anything is computed, so that no library below fails at it.
"""

import types
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from os import PathLike, fspath
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, Union, get_args, get_origin

import numpy as np
from PIL import Image as Pillow
from torch import Tensor, nn

from pipeline.base.errors import ArgumentError, unknown_name
from pipeline.base.progress import Progress
from pipeline.images.original_view import ImageOptions
from pipeline.representations.representation import RepresentationOptions


class Limit(Protocol):
    """A further condition on values of an annotated type, as in `Annotated[int, AtLeast(1)]`."""

    def holds(self, value: Any) -> bool:
        """Return whether a value of the type fulfils the condition."""
        ...

    def __str__(self) -> str: ...


@dataclass(frozen=True)
class AtLeast:
    """A number that is not smaller than `least`."""

    least: int

    def holds(self, value: Any) -> bool:
        """Return whether the number is large enough."""
        return bool(value >= self.least)

    def __str__(self) -> str:
        return f"of at least {self.least}"


@dataclass(frozen=True)
class NoFile:
    """A path of a folder, which may not exist yet."""

    def holds(self, value: Any) -> bool:
        """Return whether neither the path nor a folder above it is a file."""
        text = fspath(value)
        above = [Path(text), *Path(text).parents] if "://" not in text else []
        return not any(place.is_file() for place in above)

    def __str__(self) -> str:
        return "of a folder, new or existing"


@dataclass(frozen=True)
class NotBlank:
    """A text that says something."""

    def holds(self, value: Any) -> bool:
        """Return whether there is more than white space."""
        return bool(value.strip())

    def __str__(self) -> str:
        return "that is not empty"


# What values of a type are called in messages.
_NAMES: Mapping[Any, str] = {
    type(None): "None",
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text",
    PathLike: "a path",
    Mapping: "a dictionary",
    Callable: "a function",
    Tensor: "a torch tensor",
    np.ndarray: "a NumPy array",
    nn.Module: "a torch.nn.Module",
    Pillow.Image: "a PIL image",
    ImageOptions: "what mvmr.Image(size) returns",
    RepresentationOptions: "what mvmr.teacher(network, ...) returns",
    Progress: "an object that receives progress",
}


def require_fitting(call: str, given: Mapping[str, Any], annotations: Mapping[str, Any]) -> None:
    """Raise ArgumentError unless each argument is of its annotated type."""
    for name, value in given.items():
        if name in annotations and not fits(value, annotations[name]):
            wanted = tuple(_alternatives(annotations[name]))
            if isinstance(value, str) and get_origin(wanted[0]) is Literal:
                raise ArgumentError(f"{call}: {unknown_name(name, value, get_args(wanted[0]))}")
            raise ArgumentError(
                f"{call}: {name} must be {described(annotations[name])}; found {_shown(value)}."
                f"{_advice(value, wanted)}"
            )


def fits(value: Any, annotation: Any) -> bool:
    """Return whether a value is of an annotated type, as far as that can be told at a glance.

    Contents of dictionaries, and signatures of functions, are not looked at.
    """
    kinds = list(_alternatives(annotation))
    if isinstance(value, type):  # it can be called, but computes nothing: it builds
        kinds = [kind for kind in kinds if kind is Any or _builds(kind)]
    return any(_fits_one(value, kind) for kind in kinds)


def described(annotation: Any) -> str:
    """Return what values of an annotated type are called."""
    kinds = list(_alternatives(annotation))
    classes = [_class_of(kind) for kind in kinds]
    if PathLike in classes:  # a text is then a path, too
        kinds = [kind for kind, found in zip(kinds, classes, strict=True) if found is not str]
    names = list(dict.fromkeys(map(_name_of, kinds)))
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _alternatives(annotation: Any) -> Iterator[Any]:
    """Yield the members of unions, each with its limits."""
    if get_origin(annotation) in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from _alternatives(member)
    elif get_origin(annotation) is Annotated:
        inner, *limits = get_args(annotation)
        for member in _alternatives(inner):
            yield Annotated[member, *limits]
    else:
        yield annotation


def _class_of(kind: Any) -> Any:
    """Return the class whose instances a type has: `dict` of `dict[str, int]`."""
    if get_origin(kind) is Annotated:
        return _class_of(get_args(kind)[0])
    return type(None) if kind is None else get_origin(kind) or kind


def _fits_one(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Annotated:
        inner, *limits = get_args(kind)
        return fits(value, inner) and all(limit.holds(value) for limit in limits)
    found: Any = _class_of(kind)
    inside = get_args(kind)
    if found is Literal:
        return any(type(value) is type(one) and value == one for one in inside)
    if found is Any or not isinstance(found, type):
        return True
    if found in (int, float):
        number = Integral if found is int else Real
        return isinstance(value, number) and not isinstance(value, bool | np.bool_)
    if issubclass(found, tuple):
        return isinstance(value, tuple | list) and len(value) == len(inside)
    if issubclass(found, Sequence) and found is not str:
        return _is_list(value) and all(fits(one, inside[0]) for one in value)
    return isinstance(value, found)


def _builds(kind: Any) -> bool:
    """Return whether a type is that of functions that return a network."""
    return _class_of(kind) is Callable and get_args(kind)[-1] is nn.Module


def _is_list(value: Any) -> bool:
    """Return whether a value has items in an order; a text is none of letters."""
    return (
        isinstance(value, Collection)
        and hasattr(value, "__getitem__")
        and not isinstance(value, str | bytes | Mapping)
    )


def _name_of(kind: Any) -> str:
    if get_origin(kind) is Annotated:
        inner, *limits = get_args(kind)
        return " ".join([_name_of(inner), *map(str, limits)])
    found, inside = _class_of(kind), get_args(kind)
    if found is Literal:
        return f"one of {', '.join(map(repr, inside))}"
    if isinstance(found, type) and issubclass(found, tuple):
        return f"a pair ({', '.join(described(one) for one in inside)})"
    if isinstance(found, type) and issubclass(found, Sequence) and found is not str:
        return f"a list, each {described(inside[0])}"
    if _is_of_data(found):
        return "a data set, as mvmr.open_dataset(path) returns it"
    return _NAMES.get(found) or f"a {getattr(found, '__name__', found)}"


def _is_of_data(found: Any) -> bool:
    """Return whether a class is that of data sets, in whose modules this one is used."""
    return getattr(found, "__name__", "") in ("Dataset", "Packed")


def _shown(value: Any) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    if value is None or isinstance(value, str | bool | int | float | PathLike):
        text = repr(value)
        return text if len(text) <= 80 else f"{text[:77]}..."
    return type(value).__name__


def _advice(value: Any, wanted: Sequence[Any]) -> str:
    """Return how to make what is wanted of what was found, if that is known."""
    classes = [_class_of(kind) for kind in wanted]
    lists = [kind for kind in classes if isinstance(kind, type) and issubclass(kind, Sequence)]
    if isinstance(value, type):
        return f" Give an instance, such as {value.__name__}()."
    if ImageOptions in classes and isinstance(value, int):
        return f" Write mvmr.Image({value})."
    if RepresentationOptions in classes and callable(value):
        return " Hand a network over by mvmr.teacher(network, prepare, name=...)."
    if np.ndarray in classes and isinstance(value, list | tuple):
        return " numpy.asarray makes an array of it."
    if isinstance(value, str) and any(kind not in (str, tuple) for kind in lists):
        return f" Write [{value!r}]."
    if isinstance(value, Pillow.Image) and PathLike in classes:
        return " Images are read from files; run.encoder prepares and embeds a single one."
    if isinstance(value, str | PathLike) and any(map(_is_of_data, classes)):
        return f" Write mvmr.open_dataset({fspath(value)!r})."
    return ""
