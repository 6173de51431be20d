"""Tasks that run on a worker: extracting one shard, or computing a few rows for a sample.

An image is decoded once for all requested features. The threads of a pool decode ahead, the
network computes and its vectors are reduced on its device, and another thread writes a chunk as
soon as it is full. Memory holds only the networks and a few batches.

A process works on two tasks at a time: while one computes, the next one reads and decodes, so that
the network does not wait at the border of two shards.
"""

from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from threading import Lock, Semaphore

import torch
from distributed import get_worker
from distributed.comm import get_address_host
from torch import Tensor

from pipeline.base.devices import available_cores
from pipeline.base.errors import StoreError
from pipeline.base.gpu_places import own_gpu
from pipeline.base.threads import InOrder, thread_pool
from pipeline.features.encoding import Array
from pipeline.features.extraction.feed import Feed
from pipeline.features.extraction.fingerprint import FIT_SEED
from pipeline.features.extraction.networks import batch_size, blanks_of, networks_of
from pipeline.features.extraction.patience import ENDED, patient
from pipeline.features.extraction.sink import Reduced, Sink
from pipeline.features.extraction.task import Task
from pipeline.features.fidelity import Witness
from pipeline.features.projection import first_projection
from pipeline.features.reduction import Reduction
from pipeline.images.preparation import Preparation
from pipeline.representations.representation import Representation
from pipeline.shards.manifest import read_manifest

TASKS_AT_ONCE = 2
BATCHES_TO_WRITE = 2  # that wait for the thread that writes
COMPUTED = "mvmr-computed"  # the topic of events with numbers of images

_places, _turn = Semaphore(TASKS_AT_ONCE), Lock()

Place = tuple[str, str]  # a feature and one of its arrays
Vectors = tuple[list[int], dict[Place, Tensor]]


@patient
def sample_vectors(task: Task) -> Array:
    """Return the vectors (rows, D) of valid rows, float32, after the first projection if any."""
    (feature,) = task.features
    projection = first_projection(feature.width, feature.options.reduce, seed=FIT_SEED)
    first = Reduction(projection).to(_device())
    with closing(_represented(task)) as batches:
        return torch.cat([first.apply(vectors).cpu() for vectors in _only(batches)]).numpy()


@patient
def witness_rows(task: Task, reduction: Reduction) -> Witness:
    """Return the witness of the valid rows, by which the reduction's fidelity is measured."""
    with closing(_represented(task)) as batches:
        original = torch.cat([*_only(batches)])
    first = task.spans[0]
    reduced = reduction.to(_device()).apply(original)
    seeds, components = (FIT_SEED, first.shard, first.first), reduction.keeps_components
    return Witness.of(original, reduced, *seeds, components=components).to("cpu")


@patient
def recomputed_rows(task: Task, reduction: Reduction) -> Array:
    """Return reduced vectors (rows, K), float32, of the rows to compute."""
    here = reduction.to(_device())
    with closing(_represented(task)) as batches:
        return torch.cat([here.apply(vectors).cpu() for vectors in _only(batches)]).numpy()


def _only(batches: Iterable[Vectors]) -> Iterator[Tensor]:
    """Yield the vectors (rows, D) of a task for one array of one feature."""
    for _, vectors in batches:
        (found,) = vectors.values()
        yield found


@patient
def extract_shard(task: Task) -> None:
    """Write all wanted features of one shard, and what is measured of them."""
    manifest = read_manifest(task.directory)
    (span,) = task.spans
    none = frozenset[int]()
    sinks = [
        Sink(
            feature,
            part,
            manifest,
            span.shard,
            kept=task.kept.get((feature.name, part), none),
            measured=task.measured.get(feature.name, none) if part == manifest.split else none,
            device=_device(),
        )
        for feature in task.features
        for part in task.parts_of(feature)
    ]

    def add(reduced: list[Reduced]) -> None:
        for sink, part in zip(sinks, reduced, strict=True):
            sink.add(part)

    with InOrder(BATCHES_TO_WRITE) as writer:
        with closing(_represented(task)) as batches:
            for rows, vectors in batches:
                writer.do(add, [s.reduce(rows, vectors[s.name, s.part]) for s in sinks])
        for sink in sinks:
            writer.do(sink.close)
        writer.finish()


def _represented(task: Task) -> Generator[Vectors]:
    """Yield for each batch the rows that are computed, and by array their vectors (rows, D)."""
    device, share = _device(), _share_of_cores(task.workers_per_host)
    with _places:
        networks = networks_of(task.features, task.image, device)
        hows = {
            (feature.name, part): feature.preparation(networks[feature.name], part)
            for feature in task.features
            for part in task.parts_of(feature)
        }
        feed = Feed(
            task.files(),
            blanks_of(hows.values()),
            size=task.batch_size or batch_size(networks, device),
            pool=thread_pool(share),
            threads=share,
            pinned=device.type == "cuda",
        )
        with feed, _turn, _threads(share):
            for batch in feed:
                if ENDED.is_set():
                    raise InterruptedError("This process has been told to end its tasks.")
                ready = {
                    how: how.finish(pixels.to(device, non_blocking=True))
                    for how, pixels in batch.images.items()
                }
                yield batch.rows, _computed(networks, hows, ready)
                get_worker().log_event(COMPUTED, len(batch.rows))


def _computed(
    networks: Mapping[str, Representation],
    hows: Mapping[Place, Preparation],
    ready: Mapping[Preparation, Tensor],
) -> dict[Place, Tensor]:
    """Return the vectors (B, D) of prepared images, by array."""
    try:
        with torch.inference_mode():
            return {place: networks[place[0]](ready[how]).float() for place, how in hows.items()}
    except torch.OutOfMemoryError as error:
        count = len(next(iter(ready.values())))
        raise StoreError(
            f"The GPU's memory does not hold {', '.join(networks)} for {count} images at once. "
            f"Repeat the command with `--batch-size {max(1, count // 2)}`."
        ) from error


def end_tasks(*, end: bool = True) -> None:
    """End the tasks of this process at their next batch; with `end` False, let later ones run."""
    (ENDED.set if end else ENDED.clear)()


def _device() -> torch.device:
    """Return this process's GPU; without GPUs, the CPU."""
    number = own_gpu()
    return torch.device("cpu") if number is None else torch.device("cuda", number)


def _share_of_cores(workers_per_host: Mapping[str, int]) -> int:
    """Return how many of this host's cores each of its workers has."""
    host = get_address_host(get_worker().address)
    return max(1, available_cores() // workers_per_host.get(host, 1))


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Compute in so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
