"""What one GPU achieves with this project, in ten minutes: one command, one JSON file.

    python -m benchmarks.accelerator [--json FILE] [--minutes 10] [--images DIR] [--teacher DIR]
        [--photographs DIR] [--only SECTION ...] [--tiny]

    tests      the tests that need a device, and a first run of the digits experiment
    agreement  representations, dependence and views against the CPU, scattering against kymatio
    teacher    ViT-B-16 fed from JPEG files, against the bare network
    steps      training steps with and without five cached targets: waits, memory, feeding
    probes     k-NN and linear probes on 200,000 rows
    cifar10    the study's finalists with ResNet-18, for as many epochs as time allows

The file is rewritten after every finding, so findings are kept however the command ends. Each
section is a separate process with a time limit; if one fails, the others still run. A call with
the same file skips the sections that are done, and resumes training from its files below --work.

Before anything starts, one line per missing package says what is skipped without it. All sections
work with PyTorch 2.11 and with the pinned version. `--tiny` runs everything on the CPU, with the
smallest sizes. `benchmarks.accelerator.gather` gathers what a machine without a network lacks.
"""

import argparse
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.accelerator.results import Options, Results, plain, read
from benchmarks.accelerator.sections import SECTIONS, Section, missing
from pipeline.base.atomic import write_json
from pipeline.base.devices import available_cores, device_from

VERSIONS = ("torch", "torchvision", "numpy", "lightning", "open_clip_torch", "timm", "zarr")
LEAST_SECONDS = 20.0  # a section with less time is not started
DONE = "done"


def main() -> None:
    """Run the sections; or only one, if this is the process of a section."""
    parser = _parser()
    arguments = parser.parse_args()
    device = device_from("cpu" if arguments.tiny else arguments.device)
    began = time.time()
    options = Options(
        device=device,
        tiny=arguments.tiny,
        work=arguments.work.resolve(),
        until=arguments.until or began + 60 * arguments.minutes,
        images=arguments.images and arguments.images.resolve(),
        teacher=arguments.teacher and arguments.teacher.resolve(),
        photographs=arguments.photographs and arguments.photographs.resolve(),
        epochs=arguments.epochs,
    )
    file = arguments.json.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    if arguments.section:
        SECTIONS[arguments.section].load()(options, Results(file, arguments.section))
        return
    names = arguments.only or list(SECTIONS)
    skipped = preflight(names, options)
    before = read(file).get("status", {})
    write_json(file, {**read(file), "machine": machine(device), "skipped": skipped})
    for name in names:
        if name in skipped:
            note(file, name, {"how": skipped[name]})
        elif before.get(name, {}).get("how") != DONE:
            note(file, name, here(name, options, file) if arguments.here else run(name, options))
    write_json(file, {**read(file), "seconds": round(time.time() - began)})


def preflight(names: list[str], options: Options) -> dict[str, str]:
    """Print one line per missing package or option; return the skipped sections, and why."""
    chosen = {name: SECTIONS[name] for name in names}
    needed = {package for section in chosen.values() for package in section.needs + section.likes}
    lacking = missing(tuple(sorted(needed)))
    skipped: dict[str, str] = {}
    for package, why in lacking.items():
        without = [name for name, section in chosen.items() if package in section.needs]
        partly = [name for name, section in chosen.items() if package in section.likes]
        skipped |= dict.fromkeys(without, f"{package} is missing")
        parts = [f"skipped: {', '.join(without)}"] if without else []
        parts += [f"in part: {', '.join(partly)}"] if partly else []
        print(f"{package} is missing ({why}); {'; '.join(parts)}", flush=True)
    for name, section in chosen.items():
        absent = [what for what in section.data if getattr(options, what) is None]
        if absent and not options.tiny:
            print(f"--{absent[0]} is not given; skipped: {name}", flush=True)
            skipped[name] = f"--{absent[0]} is not given"
    if not torch.cuda.is_available() and not options.tiny:
        print("There is no CUDA device: everything runs on the CPU, and slowly.", flush=True)
    return skipped


def run(name: str, options: Options) -> Mapping[str, Any]:
    """Run one section in its own process; return how it ended, and how long it took."""
    section: Section = SECTIONS[name]
    limit = min(section.seconds, options.seconds_left)
    if limit < LEAST_SECONDS:
        return {"how": "no time was left"}
    until = ["--until", str(options.until), "--section", name]
    command = [sys.executable, "-m", "benchmarks.accelerator", *sys.argv[1:], *until]
    # As in `mvmr` and its workers, idle threads sleep.
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    if options.tiny:
        environment["OMP_NUM_THREADS"] = "1"
    began = time.time()
    # In its own process group, so that a section's workers end with it.
    process = subprocess.Popen(command, env=environment, process_group=0)
    try:
        code = process.wait(limit)
        how = DONE if code == 0 else f"exit code {code}"
    except subprocess.TimeoutExpired:
        how = f"stopped after {limit:.0f} s"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return {"how": how, "seconds": time.time() - began}


def here(name: str, options: Options, file: Path) -> Mapping[str, Any]:
    """Run one section in this process, without a time limit."""
    began = time.time()
    SECTIONS[name].load()(options, Results(file, name))
    return {"how": DONE, "seconds": time.time() - began}


def note(file: Path, name: str, status: Mapping[str, Any]) -> None:
    """Write how a section ended."""
    content = read(file)
    content.setdefault("status", {})[name] = plain(status)
    write_json(file, content)
    print(f"{name}: {status}", flush=True)


def machine(device: torch.device) -> dict[str, Any]:
    """Return the machine and the versions of the libraries."""
    found: dict[str, Any] = {"python": platform.python_version(), "cores": available_cores()}
    if device.type == "cuda":
        found["device"] = torch.cuda.get_device_name(device)
        found["memory, GiB"] = torch.cuda.get_device_properties(device).total_memory / 2**30
        found["cuda"] = str(torch.version.cuda)
    for name in VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return {name: plain(value) for name, value in found.items()}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accelerator",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, default=Path("runs/accelerator/results.json"))
    parser.add_argument("--work", type=Path, default=Path("runs/accelerator/work"))
    parser.add_argument("--minutes", type=float, default=10.0, help="limit for all sections")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--images", type=Path, help="CIFAR-10: {train,test}/<class>/<image>")
    parser.add_argument("--teacher", type=Path, help="the folder of the study's teacher")
    parser.add_argument("--photographs", type=Path, help="a folder of JPEG files")
    parser.add_argument("--epochs", type=int, help="epochs of cifar10, instead of as many as fit")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, metavar="SECTION")
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes, on the CPU")
    parser.add_argument("--here", action="store_true", help="all sections in this process")
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
