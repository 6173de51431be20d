"""The layers of the code: each package imports only from those before it."""

import ast
import subprocess
import sys
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# In the order in which data flows. `docs/how-it-works.md` says what each package holds.
PACKAGES = (
    "pipeline.base",
    "pipeline.images",
    "pipeline.datasets",
    "pipeline.shards",
    "pipeline.representations",
    "pipeline.dependence",
    "pipeline.features",
    "pipeline.objective",
    "pipeline.models",
    "pipeline.loading",
    "pipeline.metrics",
    "pipeline.training",
    "pipeline.evaluation",
    "pipeline.planning",
    "pipeline.reporting",
    "pipeline",
    "stages.experiment",
    "stages.steps",
    "stages.terminal",
    "stages",
    "mvmr",
)
TOPS = ("pipeline", "stages", "mvmr")
MOST_LOOSE = 2


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules() -> dict[str, Path]:
    paths = [path for top in TOPS for path in ROOT.glob(f"{top}/**/*.py")]
    return {module_name(path): path for path in paths}


def package_of(module: str) -> str:
    """Return the listed package that a module belongs to, the innermost one."""
    own = [name for name in PACKAGES if module == name or module.startswith(f"{name}.")]
    return max(own, key=len)


def imports() -> dict[str, set[str]]:
    """Map each module to the modules of the project that it imports anywhere."""
    known = modules()
    graph: dict[str, set[str]] = {}
    for name, path in known.items():
        found: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                assert node.level == 0, f"{path}: imports are absolute"
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= (inner & known.keys()) or {node.module}
        graph[name] = {module for module in found if module in known} - {name}
    return graph


def test_packages_import_only_from_those_before_them() -> None:
    upward = [
        f"{module} -> {target}"
        for module, targets in imports().items()
        for target in targets
        if PACKAGES.index(package_of(target)) > PACKAGES.index(package_of(module))
    ]
    assert upward == []


def test_neither_modules_nor_packages_form_a_circle() -> None:
    graph = imports()
    inner: dict[str, set[str]] = {}  # packages within a package: representations.teachers, ...
    for module, targets in graph.items():
        room = module.rpartition(".")[0]
        beside = {target.rpartition(".")[0] for target in targets}
        inner.setdefault(room, set()).update(
            other for other in beside if other != room and not _one_holds_the_other(room, other)
        )
    for name, edges in (("modules", graph), ("packages", inner)):
        try:
            order = list(TopologicalSorter(edges).static_order())
        except CycleError as error:
            pytest.fail(f"circle of {name}: {' -> '.join(error.args[1])}")
        assert order


def _one_holds_the_other(room: str, other: str) -> bool:
    return f"{room}.".startswith(f"{other}.") or f"{other}.".startswith(f"{room}.")


def test_every_package_is_listed_and_exists() -> None:
    folders = {module_name(p) for top in TOPS for p in ROOT.glob(f"{top}/*/__init__.py")}
    assert folders | set(TOPS) == set(PACKAGES)


def test_modules_lie_in_rooms_and_no_name_occurs_twice() -> None:
    files = [path for path in modules().values() if path.name != "__init__.py"]
    assert len([path for path in files if path.parent == ROOT / "pipeline"]) <= MOST_LOOSE
    twice = [name for name, count in Counter(path.name for path in files).items() if count > 1]
    assert twice == []


@pytest.mark.parametrize("tops", [("pipeline", "stages"), ("mvmr",)])
def test_a_class_name_means_one_thing(tops: tuple[str, ...]) -> None:
    """The front door has names as users know them: its `FeatureStore` adds to that below it."""
    names = Counter(
        node.name
        for module, path in modules().items()
        if module.partition(".")[0] in tops
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_checking_a_config_loads_no_library_that_only_training_needs() -> None:
    heavy = [
        "lightning",
        "open_clip",
        "timm",
        "torchvision",
        "distributed",
        "sklearn",
        "scipy",
        "zarr",
        "matplotlib",
    ]
    code = f"import sys, stages.experiment.schema; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
