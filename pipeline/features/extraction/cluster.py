"""The Dask workers of an extraction: local ones, or those of a running scheduler."""

import logging
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from dask import config as dask_config
from distributed import Client, Future, LocalCluster, Nanny, wait
from distributed.scheduler import KilledWorker
from distributed.utils import LoopRunner

from pipeline.base.devices import available_cores
from pipeline.base.errors import StoreError
from pipeline.base.processes import deaf_children, without_the_script
from pipeline.base.progress import Progress, Silent, foresee
from pipeline.base.text import counted
from pipeline.features.extraction.task import Task
from pipeline.features.extraction.worker import COMPUTED, TASKS_AT_ONCE, end_tasks

Result = TypeVar("Result")
# Starting a worker process takes seconds, which does not pay if it gets fewer shards than this.
SHARDS_PER_WORKER = 4
CONNECT_SECONDS = 10
# Lets a worker's C library keep freed memory. Dask's default returns every block to the system at
# once; the page faults that follow take a third of the time of wavelet scattering. All threads
# share one arena, so that memory which one of them has freed is there for the others.
WORKER_ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "OMP_WAIT_POLICY": "PASSIVE",
}
# A local worker's monitors run rarely: at Dask's intervals, they take a few percent of a core.
QUIET = {
    "distributed.worker.profile.enabled": False,
    "distributed.worker.memory.monitor-interval": "5s",
    "distributed.admin.system-monitor.interval": "5s",
    "distributed.admin.tick.interval": "1s",
}
# When nothing has come for so long, new workers are started if there are none, so many times.
PATIENCE_SECONDS = 10.0
LIVES = 6
# A local dashboard listens only here, whatever the address of the scheduler.
LOCAL = "127.0.0.1"
LOCAL_LINK = {"distributed.dashboard.link": f"{{scheme}}://{LOCAL}:{{port}}/status"}


@dataclass(frozen=True)
class ClusterOptions:
    """Where tasks run: `workers` local processes, or the scheduler at an address.

    `batch_size` is how many images a network takes at once, None for what suits its device.
    With `here`, they run in a thread of this process, for what other processes cannot build.
    """

    workers: int | None = None
    scheduler: str | None = None
    batch_size: int | None = None
    here: bool = False


@dataclass(frozen=True)
class Cluster:
    """A Dask cluster that runs tasks; `workers_per_host` counts its processes on each host.

    `revive` starts new workers if it can. A worker that dies before it has told its keeper that it
    is there is not replaced by Dask, so there may be none left, and nothing would go on.
    """

    client: Client
    workers_per_host: Mapping[str, int]
    revive: Callable[[], None]
    batch_size: int | None = None

    def run(
        self,
        function: Callable[..., Result],
        tasks: Sequence[Task],
        progress: Progress,
        **shared: object,
    ) -> list[Result]:
        """Return the results of `function(task, **shared)` for all tasks, in their order.

        The `shared` values are sent to each worker once.

        If workers die repeatedly on a task, a StoreError names it after all others have finished.
        Any other failure stops the run at once.
        """
        held = {name: self.client.scatter(x, broadcast=True) for name, x in shared.items()}
        results: dict[int, Result] = {}

        def attempt(numbers: Sequence[int], progress: Progress) -> list[int]:
            """Run some of the tasks; return those on which workers died repeatedly."""
            chosen = [tasks[number] for number in numbers]
            futures = self.client.map(function, chosen, **held, pure=False, retries=0)
            number_of = {future.key: n for future, n in zip(futures, numbers, strict=True)}
            deadly = []
            try:
                for done, future in enumerate(self._completed(futures), start=1):
                    number = number_of[future.key]
                    try:
                        results[number] = self._patiently(future.result)
                    except KilledWorker:
                        deadly.append(number)
                    future.release()
                    task = tasks[number]
                    progress.advance(task.images, f"{done} of {counted(len(tasks), task.unit)}")
            except BaseException:
                self.client.cancel(futures)
                raise
            return deadly

        with self._counted(sum(task.images for task in tasks), progress):
            deadly = attempt(range(len(tasks)), progress)
        if len(deadly) > 1:  # Dask also blames tasks that only waited for the same worker
            deadly = [number for number in deadly if attempt([number], Silent())]
        if deadly:
            names = sorted(tasks[number].name for number in deadly)
            raise StoreError(
                f"Workers died again and again on {', '.join(names)} (out of memory?); "
                "all others are done. Try again with fewer workers."
            )
        return [results[i] for i in range(len(tasks))]

    @contextmanager
    def _counted(self, total: int, progress: Progress) -> Iterator[None]:
        """Show the number of images that are computed, also of tasks that have not ended."""
        seen = 0

        def count(event: tuple[float, int]) -> None:
            nonlocal seen
            seen = min(total, seen + event[1])
            foresee(progress, seen, f"{seen:,} of {counted(total, 'images')} computed")

        self.client.subscribe_topic(COMPUTED, count)
        try:
            yield
        finally:
            self.client.unsubscribe_topic(COMPUTED)

    def _completed(self, futures: Sequence[Future]) -> Iterator[Future]:
        """Yield futures as they end, whether well or not."""
        waiting = set(futures)
        while waiting:
            some = waiting
            found = self._patiently(partial(wait, some, return_when="FIRST_COMPLETED"))
            yield from found.done
            waiting = found.not_done

    def _patiently(self, ask: Callable[..., Any]) -> Any:
        """Return what `ask(timeout=seconds)` returns, however long it takes.

        While it takes long, new workers are started if there are none; StoreError if they die.
        """
        lives = LIVES
        while True:
            try:
                return ask(timeout=PATIENCE_SECONDS)
            except TimeoutError:
                if self.client.ncores():
                    continue
            if not lives:
                raise StoreError(
                    "All workers have died again and again (out of memory?). What is finished is "
                    "kept: repeat the command with fewer workers."
                )
            lives -= 1
            self.revive()


@contextmanager
def cluster(options: ClusterOptions, *, shards: int, progress: Progress) -> Iterator[Cluster]:
    """Yield a cluster for work on `shards` shards.

    Raises StoreError if no scheduler answers at the address, or it has no workers.
    """
    with _running(options, shards) if options.scheduler else _local(options, shards) as client:
        if client.dashboard_link:
            progress.note(f"Dask dashboard, while this runs: {client.dashboard_link}")
        found = client.scheduler_info(n_workers=-1)["workers"].values()
        hosts = Counter[str](worker["host"] for worker in found)
        yield Cluster(client, hosts, partial(_revive, client), options.batch_size)


def _revive(client: Client) -> None:
    """Replace all workers of a local cluster; of a running one, others take care."""
    local = client.cluster
    if isinstance(local, LocalCluster):
        workers = len(local.worker_spec)
        local.scale(0)
        local.scale(workers)


@contextmanager
def _running(options: ClusterOptions, shards: int) -> Iterator[Client]:
    del shards
    start = "start one with `dask scheduler`, or leave --scheduler out for a local cluster"
    try:
        client = Client(options.scheduler, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise StoreError(f"No Dask scheduler answers at {options.scheduler}: {start}.") from error
    with client:
        try:
            client.wait_for_workers(1, timeout=CONNECT_SECONDS)
        except TimeoutError as error:
            raise StoreError(
                f"The Dask scheduler at {options.scheduler} has no workers: start some with "
                f"`dask worker {options.scheduler}`."
            ) from error
        yield client


def local_workers(options: ClusterOptions, shards: int) -> int:
    """Return how many workers a local cluster has for work on `shards` shards."""
    if options.here:
        return 1
    gpus = torch.cuda.device_count()
    most = gpus or available_cores()  # workers on one GPU would only share it
    workers = options.workers or max(1, shards // SHARDS_PER_WORKER)
    return min(workers, shards, most if gpus or options.workers is None else shards)


@contextmanager
def _local(options: ClusterOptions, shards: int) -> Iterator[Client]:
    workers = local_workers(options, shards)
    with (
        dask_config.set(
            {"distributed.nanny.pre-spawn-environ": WORKER_ENVIRONMENT, **QUIET, **LOCAL_LINK}
        ),
        without_the_script(),
        _loop() as loop,
        LocalCluster(
            loop=loop,
            n_workers=workers,
            threads_per_worker=TASKS_AT_ONCE,
            # A thread of this process would have its settings, among them that idle threads spin,
            # unless it was started with those of workers, as the command line is.
            processes=not options.here
            and (workers > 1 or os.environ.get("OMP_WAIT_POLICY", "").upper() != "PASSIVE"),
            dashboard_address=f"{LOCAL}:0",
            memory_limit=None,
            silence_logs=logging.CRITICAL,
        ) as local,
        Client(local) as client,
    ):
        end_tasks(end=False)
        try:
            yield client
        except BaseException:
            _end_at_once(local)
            raise


def _end_at_once(local: LocalCluster) -> None:
    """Kill the worker processes, which would otherwise finish their current tasks first."""
    end_tasks()  # of a worker in this process
    for worker in local.workers.values():
        if isinstance(worker, Nanny):
            worker.auto_restart = False
            with suppress(ProcessLookupError, TypeError):  # it has ended, or has not begun
                os.kill(worker.pid, signal.SIGKILL)


@contextmanager
def _loop() -> Iterator[Any]:
    """Yield a running event loop whose worker processes ignore Ctrl-C; this process handles it."""
    runner = LoopRunner()
    with deaf_children():
        runner.start()
    try:
        yield runner.loop
    finally:
        runner.stop()
