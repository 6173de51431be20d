"""Shared by the benchmarks of loading and training: fair rounds, CPU time, medians with spread.

Wall-clock times depend on what else uses the cores. So the candidates take turns, in reversed order
every other round, and ratios are taken within a round. The CPU time of all processes is measured
too: it hardly depends on other programs.
"""

import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch


@dataclass(frozen=True)
class Cost:
    """Wall-clock seconds, and CPU seconds of this process and its workers, for `count` items."""

    wall: float
    cpu: float
    count: int = 1

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.wall + other.wall, self.cpu + other.cpu, self.count + other.count)

    @property
    def wall_each(self) -> float:
        """Wall-clock seconds per item."""
        return self.wall / self.count

    @property
    def cpu_each(self) -> float:
        """CPU seconds per item."""
        return self.cpu / self.count


def cost_of(work: Callable[[], int]) -> Cost:
    """Return the cost of `work`, which returns its number of items."""
    cpu, began = _cpu_seconds(), time.perf_counter()
    count = work()
    return Cost(time.perf_counter() - began, _cpu_seconds() - cpu, count)


def cost_of_process(
    command: Sequence[str], *, folder: Path, environment: Mapping[str, str], log: Path
) -> Cost:
    """Return the cost of a command from its start to its end, all its processes included.

    It runs in `folder`, and its output goes to the file `log`. Raises SystemExit with its last
    lines if it fails. No other process of this one may end meanwhile.
    """
    cpu, began = _ended_cpu_seconds(), time.perf_counter()
    with log.open("w", encoding="utf-8") as out:
        done = subprocess.run(
            command, cwd=folder, env=environment, stdout=out, stderr=out, check=False
        )
    cost = Cost(time.perf_counter() - began, _ended_cpu_seconds() - cpu)
    if done.returncode:
        last = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}; {log} ends:\n{last}")
    return cost


def _ended_cpu_seconds() -> float:
    """Return the CPU time of all processes that this one started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _cpu_seconds() -> float:
    """Return the CPU time that this process and its living descendants have used."""
    own = psutil.Process()
    total = 0.0
    for process in (own, *own.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def device_seconds(
    work: Callable[[], object], device: torch.device, *, repeats: int = 5, calls: int = 1
) -> float:
    """Return the median seconds of one call of `work`, the device's work included.

    One call warms up; the device is waited for after every `calls` calls.
    """
    work()
    found = []
    for _ in range(repeats):
        wait_for(device)
        began = time.perf_counter()
        for _ in range(calls):
            work()
        wait_for(device)
        found.append((time.perf_counter() - began) / calls)
    return statistics.median(found)


def wait_for(device: torch.device) -> None:
    """Wait until a device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rounds(turns: Sequence[str], count: int) -> Iterable[Sequence[str]]:
    """Yield the order of turns of each round, reversed every other round."""
    for number in range(count):
        yield turns[::-1] if number % 2 else turns


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Return median, smallest and largest."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def ratios(above: Sequence[Cost], below: Sequence[Cost]) -> Mapping[str, list[float]]:
    """Return the ratio of costs in each round, by wall-clock and by CPU time."""
    pairs = list(zip(above, below, strict=True))
    return {
        "clock": [a.wall_each / b.wall_each for a, b in pairs],
        "CPU": [a.cpu_each / b.cpu_each for a, b in pairs],
    }


def verdict(value: float, *, at_least: float = 0.0, at_most: float = float("inf")) -> str:
    """Return whether a value meets its target."""
    target = f">= {at_least:g}" if at_least else f"<= {at_most:g}"
    return f"target {target}: {'met' if at_least <= value <= at_most else 'MISSED'}"
