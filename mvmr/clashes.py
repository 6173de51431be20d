"""A check that the packages below `mvmr` are its own, not modules of the user's of that name."""

import sys
from importlib.util import find_spec
from pathlib import Path

BELOW = ("pipeline", "stages")


def require_own_packages() -> None:
    """Raise ImportError, saying what to rename, if a module of the user's hides one of ours."""
    for name in BELOW:
        found = _place_of(name)
        if found is not None and found.parent.parent != Path(__file__).resolve().parents[1]:
            file = found.parent if found.name == "__init__.py" else found
            raise ImportError(
                f"{file} hides the package {name!r} that mvmr consists of: rename it, for example "
                f"to my_{file.name}, and import it by that name."
            )


def _place_of(name: str) -> Path | None:
    loaded = sys.modules.get(name)
    file = getattr(loaded, "__file__", None)
    if loaded is None:
        spec = find_spec(name)
        file = spec.origin if spec is not None else None
    return Path(file).resolve() if file else None
