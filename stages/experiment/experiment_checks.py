"""The checks of `mvmr doctor` that need torch: torch itself, the experiment, its stages."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
import torchvision

from pipeline.base.errors import MvmrError
from pipeline.base.progress import Silent
from stages.experiment.chosen import Chosen
from stages.experiment.machine_checks import Check
from stages.experiment.requirements import missing_files, missing_weights
from stages.experiment.schema import Experiment
from stages.experiment.state import StageState, states

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108
BATCHES_AHEAD = 2  # that a loader's worker prefetches, besides the one that it hands over
PUT = "put the file there, or name another one"
COMPILERS = ("c++", "g++", "clang++")


def examine(chosen: Chosen, data: str) -> tuple[list[Check], list[StageState]]:
    """Return the checks of torch and the experiment, and the state of each stage."""
    checks = [*_torch_checks()]
    try:
        experiment = chosen.experiment
    except MvmrError as error:
        return [*checks, Check("experiment", str(error), "mend", _remedy(chosen.file, error))], []
    checks.append(Check("experiment", f"{experiment.name}, from {chosen.file}"))
    checks += _demanded_by(experiment)
    stages = list(states(experiment, data, Silent()))
    done = {stage.stage for stage in stages if stage.condition == "done"}
    wanted = {n: o for n, o in experiment.features.items() if f"extract@{n}" not in done}
    checks += [Check("teacher", text, "mend", PUT) for text in missing_files(wanted)]
    begun = [] if "train" in done else missing_weights(experiment)
    checks += [Check("student", text, "mend", PUT) for text in begun]
    return checks, stages


def _remedy(config: Path, error: MvmrError) -> str:
    if str(error).startswith(("-s ", "The options")):
        return "change the options"
    return f"edit {config}" if config.exists() else "choose an experiment, or another file"


def _torch_checks() -> Iterator[Check]:
    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
    yield Check("torch", f"{torch.__version__} with {cuda}, torchvision {torchvision.__version__}")
    if torch.cuda.is_available():
        gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        text = ", ".join(f"{gpu.name} ({gpu.total_memory / 2**30:.0f} GiB)" for gpu in gpus)
        yield Check("gpu", text)
    elif shutil.which("nvidia-smi"):
        remedy = "install a torch that is built for the driver's CUDA (pytorch.org)"
        yield Check("gpu", "there is an NVIDIA driver, but torch sees no GPU", "note", remedy)
    else:
        yield Check("gpu", "none: everything runs on the CPU")


def _demanded_by(experiment: Experiment) -> Iterator[Check]:
    """Check what this experiment requires of the machine."""
    options = experiment.train
    if options is None:
        return
    if options.compile:
        compiler = next((found for name in COMPILERS if (found := shutil.which(name))), None)
        remedy = "install g++, or set train.compile to false"
        missing = Check("compiler", "train.compile needs a C++ compiler", "mend", remedy)
        yield Check("compiler", compiler) if compiler else missing
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    wanted = options.parallel.devices
    if options.parallel.accelerator == "gpu" and gpus < wanted:
        remedy = "set train.parallel.accelerator to auto, or fewer devices"
        found = f"train.parallel asks for {wanted} GPUs, and there are {gpus}"
        yield Check("devices", found, "mend", remedy)
    if options.loading.mode != "resident" and options.loading.workers:
        yield _shared_memory(experiment)


def _shared_memory(experiment: Experiment) -> Check:
    """Check that the batches of the loader's workers fit into shared memory."""
    if not SHARED_MEMORY.is_dir() or experiment.train is None:
        return Check("shared memory", f"not checked: there is no {SHARED_MEMORY}")
    options, image = experiment.train, experiment.dataset.image
    batches = options.loading.workers * (BATCHES_AHEAD + 1)
    wanted = batches * options.batch_size * image.channels * image.size**2
    free = shutil.disk_usage(SHARED_MEMORY).free
    found = f"{free / 2**20:,.0f} MiB free; the loader's workers need {wanted / 2**20:,.1f} MiB"
    if free >= wanted:
        return Check("shared memory", found)
    remedy = "enlarge it (docker run --shm-size=8g), or set train.loading.workers to 0"
    return Check("shared memory", found, "mend", remedy)
