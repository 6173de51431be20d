"""What every public call does: it checks its arguments, and it fails in the words of Python."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar, get_type_hints

from mvmr.given_arguments import require_fitting
from mvmr.python_words import in_words_of_python
from pipeline.base.errors import MvmrError

P = ParamSpec("P")
R = TypeVar("R")
INTERRUPTED = "Interrupted: "
CONTINUES = "what is finished is kept in {place}. The same call of {call} continues from there."
STARTS_OVER = "the same call of {call} packs the images into {place} again."


def public(function: Callable[P, R]) -> Callable[P, R]:
    """Check what a function is given, and reword the remedies of its errors for Python.

    Raises ArgumentError if an argument is not of its annotated type.
    """
    signature = inspect.signature(function)
    label = function.__qualname__.removesuffix(".__init__").removesuffix(".forward")

    @cache
    def annotations() -> Mapping[str, Any]:
        return get_type_hints(function, include_extras=True)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with words_of_python():
            try:
                given = signature.bind_partial(*args, **kwargs).arguments
            except TypeError:  # Python itself says best which argument is missing or unknown
                given = {}
            require_fitting(label, given, annotations())
            return function(*args, **kwargs)

    return call


def resumable(told: str = CONTINUES) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Do as `public`, and tell in a note on a KeyboardInterrupt what the same call then does.

    `call` and `place`, where the call keeps its work, are filled in.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature, checked = inspect.signature(function), public(function)

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return checked(*args, **kwargs)
            except KeyboardInterrupt as error:
                given = signature.bind(*args, **kwargs).arguments
                place = given.get("out", getattr(given.get("data"), "path", ""))
                text = told.format(call=f"mvmr.{function.__name__}", place=place)
                _note(error, f"{INTERRUPTED}{text}")
                raise

        return call

    return decorate


@contextmanager
def words_of_python() -> Iterator[None]:
    """Reword the remedies of errors, which name commands, so that they name calls."""
    try:
        yield
    except MvmrError as error:
        error.args = tuple(in_words_of_python(str(part)) for part in error.args)
        raise


def _note(error: KeyboardInterrupt, text: str) -> None:
    """Add a note, instead of that of a call within this one: the outer one is to be repeated."""
    error.__notes__ = [n for n in getattr(error, "__notes__", []) if not n.startswith(INTERRUPTED)]
    error.add_note(text)
