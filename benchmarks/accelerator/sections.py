"""The sections in their order: what each needs, and how long it may take."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module

from benchmarks.accelerator.results import Options, Results

Measure = Callable[[Options, Results], None]
DATA = ("pydantic", "ruamel.yaml", "zarr", "webdataset", "upath", "fsspec", "psutil", "safetensors")
DASK = ("distributed", "dask")
TRAINING = ("lightning", "tensorboard", "sklearn")


@dataclass(frozen=True)
class Section:
    """One part of the benchmark.

    `module` holds its `measure`. The section is skipped without one of the packages `needs` or the
    options `data`. Without one of `likes`, a part of it is skipped. `seconds` is its time limit.
    """

    module: str
    needs: tuple[str, ...]
    likes: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    seconds: float = 60.0

    def load(self) -> Measure:
        """Import its module, and return its `measure`."""
        measure: Measure = import_module(f"benchmarks.accelerator.{self.module}").measure
        return measure


COMMAND = ("rich", "click", "jinja2", "matplotlib")
SECTIONS: Mapping[str, Section] = {
    "tests": Section(
        "device_tests",
        ("pytest", "hypothesis", *DATA, *DASK, *TRAINING, *COMMAND),
        seconds=120,
    ),
    "agreement": Section("agreement", ("pydantic",), ("kymatio",), seconds=50),
    "teacher": Section("teacher", (*DATA, *DASK, "timm"), ("open_clip",), seconds=80),
    "steps": Section("steps", (*DATA, "timm", *DASK, "lightning"), seconds=110),
    "probes": Section("probes", ("pydantic",), seconds=40),
    "cifar10": Section(
        "cifar10",
        (*DATA, *DASK, *TRAINING, *COMMAND, "timm"),
        ("open_clip",),
        data=("images",),
        seconds=3600,
    ),
}


def missing(packages: tuple[str, ...]) -> dict[str, str]:
    """Return the packages that cannot be imported, and why."""
    found = {}
    for name in packages:
        try:
            import_module(name)
        except Exception as error:  # a package of another version fails in its own way
            found[name] = f"{type(error).__name__}: {error}"
    return found
