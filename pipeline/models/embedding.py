"""Embedding images from anywhere on disk, batch by batch, into a Parquet or an NPZ file."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from pipeline.base.atomic import atomic_path
from pipeline.base.devices import available_cores, placed
from pipeline.base.errors import ConfigError, DataError
from pipeline.base.progress import Progress
from pipeline.base.text import counted_kinds
from pipeline.datasets.image_files import ENDINGS, Listing, files_below, text_of
from pipeline.datasets.source import Unlisted
from pipeline.models.ready_encoder import ReadyEncoder

OUTPUT_ENDINGS = (".parquet", ".npz")
BATCH = 64

Rows = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Embedded:
    """What was written; `left_out` gives, by name, the reason for each image that was not."""

    images: int
    width: int
    left_out: Mapping[str, str]


@dataclass(frozen=True)
class Found:
    """Images as (name, path), and what else is in the folders."""

    images: list[tuple[str, Path]]
    unlisted: Unlisted


def find_images(paths: Sequence[Path]) -> Found:
    """Return each image, sorted within a folder.

    An image's name is its path, or its path below the folder if that is the only path given.
    Raises DataError if a path does not exist, or if nothing is found.
    """
    images, every = list[tuple[str, Path]](), Listing()
    for path in paths:
        if path.is_dir():
            below, root = files_below(path), path if len(paths) == 1 else None
            images += ((text_of(p, root), p) for p in below.images)
            every.update(below)
        elif path.is_file():
            images.append((text_of(path), path))
        else:
            raise DataError(f"There is no image or folder {str(path)!r}.")
    if not images:
        others = f" There are {counted_kinds(every.others)}." if every.others else ""
        raise DataError(
            f"There are no images in {', '.join(map(str, paths))} (looked for "
            f"{' '.join(ENDINGS)}).{others}"
        )
    return Found(images, every.unlisted())


def embed(
    images: Sequence[tuple[str, Path]],
    encoder: ReadyEncoder,
    output: Path,
    *,
    device: torch.device,
    progress: Progress,
    skip_unreadable: bool = False,
) -> Embedded:
    """Write `name` and `embedding` of each image to `output`.

    A .parquet file is written batch by batch; an .npz file holds `names` (N,) and `embeddings`
    (N, D), float32, and is collected in memory. With `skip_unreadable`, images that cannot be read
    are left out. Raises ConfigError for any other ending; DataError for an image that cannot be
    read, or, when skipping, if none can be read.
    """
    if output.suffix not in OUTPUT_ENDINGS:
        named = " or ".join(OUTPUT_ENDINGS)
        raise ConfigError(f"Embeddings are written to a {named} file; found {output.name!r}.")
    progress.start("embed", len(images), "images")
    left_out: dict[str, str] = {}
    batches = embedded_batches(
        images, encoder, device, progress, left_out if skip_unreadable else None
    )
    with atomic_path(output) as temporary:
        write = _write_npz if output.suffix == ".npz" else _write_parquet
        count, width = write(temporary, batches)
        if not count:
            name, why = next(iter(left_out.items()))
            raise DataError(f"None of the {len(images)} images can be read. {name}: {why}")
    return Embedded(count, width, left_out)


def embedded_batches(
    images: Sequence[tuple[str, Path]],
    encoder: ReadyEncoder,
    device: torch.device,
    progress: Progress,
    left_out: dict[str, str] | None,
) -> Iterator[tuple[list[str], Rows]]:
    """Yield names and embeddings of each batch; `left_out` receives why an image has none."""
    module = placed(encoder.module, device)

    def prepared(item: tuple[str, Path]) -> torch.Tensor | str:
        try:
            return encoder.preprocessing(item[1])
        except (DataError, OSError) as error:
            if left_out is None:
                raise DataError(
                    f"{item[1]}: {error} Repair or remove the file, or leave it out with "
                    "--skip-unreadable. Nothing has been written."
                ) from error
            return str(error)

    with ThreadPoolExecutor(available_cores()) as pool, torch.inference_mode():
        for first in range(0, len(images), BATCH):
            part = images[first : first + BATCH]
            names, tensors = [], []
            for (name, _), found in zip(part, pool.map(prepared, part), strict=True):
                if isinstance(found, str) and left_out is not None:
                    left_out[name] = found
                elif isinstance(found, torch.Tensor):
                    names.append(name)
                    tensors.append(found)
            if tensors:
                rows = module(torch.stack(tensors).to(device)).float().cpu().numpy()
                yield names, rows
            progress.advance(len(part))


def _write_npz(path: Path, batches: Iterator[tuple[list[str], Rows]]) -> tuple[int, int]:
    """Write all batches; return the number of embeddings and their width."""
    names: list[str] = []
    parts: list[Rows] = []
    for batch_names, rows in batches:
        names += batch_names
        parts.append(rows)
    embeddings = np.concatenate(parts) if parts else np.empty((0, 0), np.float32)
    with path.open("wb") as file:
        np.savez(file, names=np.array(names), embeddings=embeddings)
    return embeddings.shape


def _write_parquet(path: Path, batches: Iterator[tuple[list[str], Rows]]) -> tuple[int, int]:
    """Write all batches; return the number of embeddings and their width."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError(
            "Writing Parquet needs pyarrow: pip install 'mvmr[parquet]', or write an .npz file."
        ) from error
    writer, count, width = None, 0, 0
    try:
        for names, rows in batches:
            count, width = count + len(rows), rows.shape[1]
            values = pyarrow.array(rows.reshape(-1), type=pyarrow.float32())
            table = pyarrow.table(
                {
                    "name": pyarrow.array(names, type=pyarrow.string()),
                    "embedding": pyarrow.FixedSizeListArray.from_arrays(values, width),
                }
            )
            writer = writer or pyarrow.parquet.ParquetWriter(path, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()
    return count, width
