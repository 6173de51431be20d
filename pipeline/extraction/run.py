"""Driving an extraction: what is missing, who computes it, and its publication.

A marker per shard, written after its chunks, lets a killed run resume where it stopped.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from dask import config as dask_config
from distributed import Client, LocalCluster, as_completed
from distributed.scheduler import KilledWorker
from PIL import Image

from pipeline.config import digest
from pipeline.datasets.base import Split
from pipeline.errors import ConfigError, StoreError
from pipeline.extraction.fingerprint import FIT_SEED, fingerprint_of
from pipeline.extraction.worker import (
    FIDELITY_IMAGES,
    FeatureTask,
    ShardTask,
    extract_shard,
    marker,
    sample_shard,
)
from pipeline.images import ImageOptions
from pipeline.reduction import ReduceOptions, fit_reduction, measure_fidelity
from pipeline.representations.base import RepresentationOptions
from pipeline.runtime import Progress, available_cores, device_from, exclusive, remove_tree
from pipeline.shards import Manifest, read_manifest, read_manifests
from pipeline.store import Array, FeatureStore, FeatureWriter, StoredFeature

Result = TypeVar("Result")
# A worker process takes seconds to start; below this it is not worth it.
SHARDS_PER_WORKER = 4
# What a worker's C library keeps for itself: returning every block to the system at once, as Dask
# asks for by default, costs a third of the time of wavelet scattering in page faults.
WORKER_ENVIRONMENT = {
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "OMP_WAIT_POLICY": "PASSIVE",
}


@dataclass(frozen=True)
class ClusterOptions:
    """Where tasks run: `workers` local processes, or the scheduler at an address."""

    workers: int | None = None
    scheduler: str | None = None


def extract(
    features: Mapping[str, RepresentationOptions],
    *,
    image: ImageOptions,
    shards: Path,
    store: FeatureStore,
    work: Path,
    cluster: ClusterOptions,
    progress: Progress,
    force: bool = False,
) -> dict[str, StoredFeature]:
    """Compute and publish the features that the store lacks, and return all that were asked for.

    A complete feature with the same fingerprint is left alone. One with another fingerprint
    raises StaleFeatureError, unless `force` is set. Unfinished work below `work` is continued.
    """
    shards, work = shards.resolve(), work.resolve()  # workers may run in another directory
    manifests = read_manifests(shards)
    tasks = []
    busy = StoreError(f"Another extraction is writing to {store.path}: wait until it has ended.")
    with exclusive(work / "lock", busy):
        for name, options in features.items():
            task = _feature_task(name, options, image, manifests, work)
            if name in store and not force:
                store.check(name, task.fingerprint)
            else:
                tasks.append(task)
        if tasks:
            _extract(tasks, manifests, image, shards, store, cluster, progress)
    return {name: store[name] for name in features}


def _feature_task(
    name: str,
    options: RepresentationOptions,
    image: ImageOptions,
    manifests: Mapping[Split, Manifest],
    work: Path,
) -> FeatureTask:
    if not options.storable:
        raise ConfigError(
            f"features.{name}: {options.kind!r} is random, so it cannot be stored; "
            "name it in the objective instead, where it is computed for every batch."
        )
    representation = options.build(image)
    fingerprint = fingerprint_of(options, representation, manifests)
    blank = representation.preparation(Image.new("RGB", (image.size, image.size)))
    width = representation(blank[None]).shape[1]
    directory = work / f"{name}-{digest(fingerprint)[:16]}"
    return FeatureTask(name, options, width, directory, fingerprint)


def _extract(
    features: Sequence[FeatureTask],
    manifests: Mapping[Split, Manifest],
    image: ImageOptions,
    shards: Path,
    store: FeatureStore,
    cluster: ClusterOptions,
    progress: Progress,
) -> None:
    total = sum(len(manifest.shards) for manifest in manifests.values())
    device = str(device_from("auto"))
    with _client(cluster, total) as (client, threads):

        def shard_task(
            split: Split, number: int, wanted: Iterable[FeatureTask], rows: int | None = None
        ) -> ShardTask:
            directory, chosen = shards / split, tuple(wanted)
            return ShardTask(directory, number, image, chosen, threads, device, rows)

        for feature in features:
            if not FeatureWriter(feature.work, feature.fingerprint).has_reduction():
                sample = [
                    shard_task("train", number, [feature], rows)
                    for number, rows in _sample_rows(manifests["train"], feature.sample)
                ]
                remove_tree(feature.work / "done")
                progress.start(f"sample {feature.name}", sum(t.rows or 0 for t in sample), "images")
                raw = _run(client, sample_shard, sample, progress)
                _prepare(feature, np.concatenate(raw), manifests)
        pending = [
            shard_task(split, number, missing)
            for split, manifest in manifests.items()
            for number in range(len(manifest.shards))
            if (missing := [f for f in features if not marker(f, split, number).exists()])
        ]
        names = ", ".join(feature.name for feature in features)
        images = sum(_samples(task) for task in pending)
        progress.start(f"extract {names}", images, "images")
        _run(client, extract_shard, pending, progress)
    for feature in features:
        writer = FeatureWriter(feature.work, feature.fingerprint)
        report = _read_report(writer)
        writer.publish(
            store, feature.name, {"options": feature.options.model_dump(mode="json"), **report}
        )


def _samples(task: ShardTask) -> int:
    samples = read_manifest(task.directory).shards[task.number].samples
    return samples if task.rows is None else task.rows


def _sample_rows(train: Manifest, wanted: int) -> Iterator[tuple[int, int]]:
    """Yield (shard, rows) of the first training images: every shard is a random sample."""
    for number, shard in enumerate(train.shards):
        if wanted <= 0:
            return
        yield number, min(shard.samples, wanted)
        wanted -= shard.samples


def _prepare(feature: FeatureTask, raw: Array, manifests: Mapping[Split, Manifest]) -> None:
    """Fit the reduction, measure its fidelity on images it has not seen, lay out the arrays."""
    reduce = feature.options.reduce
    fitted = 0 if reduce == ReduceOptions() else max(len(raw) - FIDELITY_IMAGES, 4 * len(raw) // 5)
    sample, unseen = torch.from_numpy(raw[:fitted]), torch.from_numpy(raw[fitted:])
    reduction = fit_reduction(sample, reduce, seed=FIT_SEED)
    reduced = reduction.apply(unseen)
    stored = reduced.to(getattr(torch, feature.options.dtype))
    fidelity = measure_fidelity(unseen, stored, seed=FIT_SEED)
    writer = FeatureWriter(feature.work, feature.fingerprint)
    for split, manifest in manifests.items():
        writer.create_split(
            split,
            samples=manifest.samples,
            width=reduced.shape[1],
            dtype=feature.options.dtype,
            samples_per_shard=manifest.samples_per_shard,
        )
    writer.write_reduction(
        reduction.arrays(),
        {
            **reduction.attributes(),
            "report": {
                "original_width": int(raw.shape[1]),
                "fit_images": len(sample),
                "fidelity": {"images": len(unseen), **asdict(fidelity)},
            },
        },
    )


def _read_report(writer: FeatureWriter) -> dict[str, Any]:
    report: dict[str, Any] = writer.reduction()[1]["report"]
    return report


@contextmanager
def _client(options: ClusterOptions, shards: int) -> Iterator[tuple[Client, int | None]]:
    """Yield a Dask client and the torch threads of a worker (None: as the cluster has it)."""
    if options.scheduler is not None:
        try:
            client = Client(options.scheduler, timeout=10)
        except OSError as error:
            raise StoreError(
                f"No Dask scheduler answers at {options.scheduler}: start one with "
                "`dask scheduler`, or leave --scheduler out for a local cluster."
            ) from error
        with client:
            yield client, None
        return
    # Workers on one GPU would only share it.
    cores = 1 if device_from("auto").type == "cuda" else available_cores()
    workers = min(options.workers or max(1, min(cores, shards // SHARDS_PER_WORKER)), shards)
    with (
        dask_config.set({"distributed.nanny.pre-spawn-environ": WORKER_ENVIRONMENT}),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=workers > 1,
            dashboard_address=":0",
            memory_limit=None,
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client, max(1, cores // workers)


def _run(
    client: Client,
    function: Callable[[ShardTask], Result],
    tasks: Sequence[ShardTask],
    progress: Progress,
) -> list[Result]:
    """Run one task a shard; results come in the order of `tasks`.

    A shard on which workers die again and again is named in the error, after the others have
    finished; any other failure stops the run at once.
    """
    futures = client.map(function, tasks, pure=False, retries=0)
    number = {future.key: i for i, future in enumerate(futures)}
    results: dict[int, Result] = {}
    deadly = []
    for future in as_completed(futures):
        task = tasks[number[future.key]]
        try:
            results[number[future.key]] = future.result()
        except KilledWorker:
            deadly.append(f"{task.directory.name}/{task.number:06d}.tar")
        except BaseException:
            client.cancel(futures)
            raise
        progress.advance(_samples(task))
    if deadly:
        raise StoreError(
            f"Workers died again and again on {', '.join(sorted(deadly))} (out of memory?); all "
            "other shards are done. Try again with fewer workers."
        )
    return [results[i] for i in range(len(tasks))]
