"""The layers of the design, read from the imports themselves."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A module belongs to the layer of its longest listed prefix.
LAYERS = {
    "pipeline": 2,
    "pipeline.errors": 0,
    "pipeline.config": 0,
    "pipeline.processes": 0,
    "pipeline.runtime": 0,
    "pipeline.storage": 0,
    "pipeline.timing": 0,
    "pipeline.pace": 0,
    "pipeline.wording": 0,
    "pipeline.encoding": 0,
    "pipeline.images": 1,
    "pipeline.views": 1,
    "pipeline.dependence": 1,
    "pipeline.losses": 1,
    "pipeline.terms": 1,
    "pipeline.objective": 1,
    "pipeline.encoders": 1,
    "pipeline.checkpoints": 1,
    "pipeline.released": 1,
    "pipeline.exporting": 1,
    "pipeline.ready": 2,
    "pipeline.embedding": 2,
    "pipeline.schedules": 1,
    "pipeline.datasets": 1,
    "pipeline.shards": 1,
    "pipeline.shard_repair": 1,
    "pipeline.store": 1,
    "pipeline.reduction": 1,
    "pipeline.fidelity": 1,
    "pipeline.representations": 1,
    "pipeline.teachers": 1,
    "pipeline.extraction": 2,
    "pipeline.loading": 2,
    "pipeline.training": 3,
    "pipeline.evaluation": 3,
    "pipeline.planning": 3,
    "pipeline.reporting": 3,
    "stages": 4,
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer_of(module: str) -> int:
    prefixes = [name for name in LAYERS if module == name or module.startswith(f"{name}.")]
    longest = max(prefixes, key=len)
    assert longest != "pipeline" or module == "pipeline", f"{module} is in no layer"
    return LAYERS[longest]


def imports() -> dict[str, set[str]]:
    """Map each module to those of the project that it imports anywhere in it."""
    paths = [*ROOT.glob("pipeline/**/*.py"), *ROOT.glob("stages/**/*.py")]
    modules = {module_name(path): path for path in paths}
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        found: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                assert node.level == 0, f"{path}: imports are absolute"
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= (inner & modules.keys()) or {node.module}
        graph[name] = {module for module in found if module in modules} - {name}
    return graph


def test_imports_run_downwards_only() -> None:
    upward = [
        f"{module} -> {target}"
        for module, targets in imports().items()
        for target in targets
        if layer_of(target) > layer_of(module)
    ]
    assert upward == []


def test_there_is_no_circle() -> None:
    try:
        order = list(TopologicalSorter(imports()).static_order())
    except CycleError as error:
        pytest.fail(f"circle: {' -> '.join(error.args[1])}")
    assert "pipeline.errors" in order


def test_every_listed_layer_exists() -> None:
    known = {module_name(path) for path in ROOT.glob("pipeline/**/*.py")} | {"stages"}
    assert LAYERS.keys() - known == set()


def test_checking_a_config_loads_no_library_that_only_training_needs() -> None:
    heavy = ("lightning", "open_clip", "torchvision", "kornia", "distributed", "matplotlib")
    code = f"import sys, stages.experiment; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
