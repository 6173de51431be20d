"""Embeddings of images anywhere on disk, batch by batch, to a Parquet or an NPZ file."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from pipeline.errors import ConfigError, DataError
from pipeline.ready import ReadyEncoder
from pipeline.runtime import Progress, atomic_path, available_cores

ENDINGS = (".parquet", ".npz")
IMAGE_ENDINGS = {
    *(".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2")
}
BATCH = 64

Rows = npt.NDArray[np.float32]


def find_images(paths: Sequence[Path]) -> list[tuple[str, Path]]:
    """Return (name, path) of each image, sorted within a folder.

    An image is named by its path; those of a single folder by their path below it. Raises
    DataError for a path that does not exist, and where nothing is found.
    """
    found: list[tuple[str, Path]] = []
    for path in paths:
        if path.is_dir():
            below = (p for p in path.rglob("*") if p.suffix.lower() in IMAGE_ENDINGS)
            files = [p for p in sorted(below) if p.is_file()]
            single = len(paths) == 1
            found += [((p.relative_to(path) if single else p).as_posix(), p) for p in files]
        elif path.is_file():
            found.append((str(path), path))
        else:
            raise DataError(f"There is no image or folder {str(path)!r}.")
    if not found:
        listed = ", ".join(sorted(IMAGE_ENDINGS))
        raise DataError(
            f"There are no images in {', '.join(map(str, paths))}: files end in {listed}."
        )
    return found


def embed(
    images: Sequence[tuple[str, Path]],
    encoder: ReadyEncoder,
    output: Path,
    *,
    device: torch.device,
    progress: Progress,
) -> int:
    """Write `name` and `embedding` of each image to `output`; return the embeddings' width.

    A .parquet file is written batch by batch; an .npz file holds `names` (N,) and `embeddings`
    (N, D), float32, and is gathered in memory. Raises ConfigError for another ending, DataError
    that names an image which cannot be read.
    """
    if output.suffix not in ENDINGS:
        raise ConfigError(f"Embeddings go to a file {' or '.join(ENDINGS)}; found {output.name!r}.")
    progress.start("embed", len(images), "images")
    batches = _embedded(images, encoder, device, progress)
    with atomic_path(output) as temporary:
        write = _write_npz if output.suffix == ".npz" else _write_parquet
        return write(temporary, batches)


def _embedded(
    images: Sequence[tuple[str, Path]],
    encoder: ReadyEncoder,
    device: torch.device,
    progress: Progress,
) -> Iterator[tuple[list[str], Rows]]:
    module = encoder.module.to(device)

    def prepared(item: tuple[str, Path]) -> torch.Tensor:
        try:
            return encoder.preprocessing(item[1])
        except (DataError, OSError) as error:
            raise DataError(f"{item[0]}: {error}") from error

    with ThreadPoolExecutor(available_cores()) as pool, torch.inference_mode():
        for first in range(0, len(images), BATCH):
            part = images[first : first + BATCH]
            batch = torch.stack(list(pool.map(prepared, part)))
            rows = module(batch.to(device)).float().cpu().numpy()
            yield [name for name, _ in part], rows
            progress.advance(len(part))


def _write_npz(path: Path, batches: Iterator[tuple[list[str], Rows]]) -> int:
    names: list[str] = []
    parts: list[Rows] = []
    for batch_names, rows in batches:
        names += batch_names
        parts.append(rows)
    with path.open("wb") as file:
        np.savez(file, names=np.array(names), embeddings=np.concatenate(parts))
    return int(parts[0].shape[1])


def _write_parquet(path: Path, batches: Iterator[tuple[list[str], Rows]]) -> int:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError(
            "Writing Parquet needs pyarrow: pip install 'mvmr[parquet]', or write an .npz file."
        ) from error
    writer, width = None, 0
    try:
        for names, rows in batches:
            width = rows.shape[1]
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
    return width
