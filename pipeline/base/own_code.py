"""Code of the user's own: registered in this process, or named `python:package.module:function`.

Only an experiment file or a call can name code to import, and only with `trust: true` beside it.
What a checkpoint or another downloaded file names is never imported.
"""

import importlib
import inspect
import sys
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from pipeline.base.errors import ConfigError, nearest

PREFIX = "python:"
OWN = "own"  # the kind of every option that names such code

Code = TypeVar("Code")


class OwnCode(Generic[Code]):
    """What users have registered under names, for one purpose, such as loss terms.

    `what` names the purpose and `call` the function that registers, for messages.
    """

    def __init__(self, what: str, call: str) -> None:
        self._what, self._call = what, call
        self._registered: dict[str, Code] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._registered

    def add(self, name: str, code: Code, *, taken: Container[str] = ()) -> None:
        """Register code under a name, instead of what an earlier call registered under it.

        Raises ConfigError if the name is `taken` by what comes with the library, or has a colon.
        """
        if not name or ":" in name or name in taken or name == OWN:
            raise ConfigError(
                f"A {self._what} of your own needs a name without a colon that no {self._what} of "
                f"the library has; found {name!r}."
            )
        self._registered[name] = code

    def find(self, name: str, *, trust: bool) -> Any:
        """Return the code of a name, registered or importable.

        Raises ConfigError if it was not registered, cannot be imported, or is not trusted.
        """
        if not name.startswith(PREFIX):
            return self._registered_as(name)
        if not trust:
            raise ConfigError(
                f"The {self._what} {name!r} is code that would run here; set `trust: true` beside "
                "it if you trust it."
            )
        return _imported(name, self._what)

    def _registered_as(self, name: str) -> Code:
        if name not in self._registered:
            near = nearest(name, sorted(self._registered))
            hint = f" Did you mean {near!r}?" if near else ""
            raise ConfigError(
                f"No {self._what} {name!r} is registered in this process.{hint} Call "
                f"`{self._call}` first, or name importable code as {PREFIX}package.module:name."
            )
        return self._registered[name]

    def named(self, section: Any) -> Any:
        """Return a section's entry with `kind: own` if its kind names code of the user's own."""
        kind = section.get("kind") if isinstance(section, Mapping) else None
        if isinstance(kind, str) and (kind.startswith(PREFIX) or kind in self):
            return {**section, "kind": OWN, "code": kind}
        return section


def require_arguments(code: Callable[..., Any], what: str, *args: object, **named: object) -> None:
    """Raise ConfigError if code of the user's own cannot be called with these arguments."""
    try:
        signature = inspect.signature(code)
    except (TypeError, ValueError):  # compiled code does not say what it takes
        return
    try:
        signature.bind(*args, **named)
    except TypeError as error:
        given = ", ".join([*map(str, args), *(f"{name}=" for name in named)]) or "nothing"
        raise ConfigError(
            f"{what} is called with {given}, but takes {signature} ({error}): change what it "
            "takes, or give further arguments a default."
        ) from error


def _imported(name: str, what: str) -> Any:
    module, _, attribute = name.removeprefix(PREFIX).partition(":")
    if str(Path.cwd()) not in sys.path:  # a command does not look for modules where it is run
        sys.path.append(str(Path.cwd()))
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"The {what} {name!r} cannot be imported ({error}). It is written "
            f"{PREFIX}package.module:name, and the module must be importable here."
        ) from error
    if not callable(found):
        raise ConfigError(f"The {what} {name!r} is not a function; found {type(found).__name__}.")
    return found
