"""ONNX files of a backbone: writing, quantising to int8, running, and timing them on the CPU.

Writing needs onnx and onnxscript, the rest onnxruntime; `pip install 'mvmr[onnx]'` has all three.
"""

import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pipeline.base.digests import sha256_of
from pipeline.base.errors import ConfigError, WeightsError
from pipeline.images.original_view import ImageOptions, normalise

INPUT, OUTPUT = "images", "embeddings"
# Of the ranges that occur in calibration, the part that int8 covers; see docs/results.md.
PERCENTILE = 99.999
CALIBRATION_BATCH = 8

WARM_UP_RUNS, TIMED_RUNS = 5, 50

Inputs = dict[str, npt.NDArray[np.float32]]


def write_onnx(backbone: nn.Module, image: ImageOptions, path: Path) -> None:
    """Write a network for any number of prepared images. Raises ConfigError without the library."""
    try:
        import onnx  # type: ignore[import-not-found,unused-ignore]  # noqa: F401
        import onnxscript  # type: ignore[import-not-found,unused-ignore]  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "Writing ONNX needs onnx and onnxscript: pip install 'mvmr[onnx]'."
        ) from error
    # Two images, because a batch of one would fix the size at the constant 1.
    example = torch.zeros(2, image.channels, image.size, image.size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        torch.onnx.export(
            backbone,
            (example,),
            path,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def quantise(path: Path, output: Path, images: Tensor, image: ImageOptions) -> dict[str, Any]:
    """Write the int8 form of the ONNX file `path` to `output`, and return how it was made.

    The quantisation is static (onnxruntime's QDQ): weights are int8, a scale for each channel;
    activations are uint8, over the range in which they lie for the calibration images
    (N, C, size, size), uint8. Raises ConfigError without the library.
    """
    _runtime(ConfigError, "Quantising")
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with TemporaryDirectory() as folder, _silent():
        inferred = Path(folder) / "inferred.onnx"
        quant_pre_process(path, inferred, skip_optimization=True, skip_symbolic_shape=True)
        quantize_static(
            inferred,
            output,
            _Calibration(images, image),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
            calibrate_method=CalibrationMethod.Percentile,
            extra_options={"CalibPercentile": PERCENTILE, "CalibStridedMinMax": 1},
        )
    return {
        "scheme": "static, QDQ",
        "weights": "int8, symmetric, a scale for each channel",
        "activations": "uint8, a scale for each tensor",
        "calibration": f"percentile {PERCENTILE}",
        "images": len(images),
    }


class _Calibration:
    """The calibration images as onnxruntime reads them: one batch for each call of `set_range`.

    It keeps the activations of all batches that it reads at once.
    """

    def __init__(self, images: Tensor, image: ImageOptions) -> None:
        self._batches, self._image = torch.split(images, CALIBRATION_BATCH), image
        self._next: Iterator[Tensor] = iter(())

    def __len__(self) -> int:
        return len(self._batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._next = iter(self._batches[start_index:end_index])

    def get_next(self) -> Inputs | None:
        batch = next(self._next, None)
        return None if batch is None else {INPUT: normalise(batch, self._image).numpy()}


@contextmanager
def _silent() -> Iterator[None]:
    """Silence what onnxruntime's quantisation prints, and logs at the root."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        root.setLevel(level)


class OnnxModule(nn.Module):
    """An exported ONNX file as a module, run by onnxruntime on the CPU."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._session, self._digest = _session(path), sha256_of(path)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, size, size) to embeddings (B, D) on their device."""
        (found,) = self._session.run(None, {INPUT: images.cpu().numpy()})
        return torch.from_numpy(found).to(images.device)

    def extra_repr(self) -> str:
        """Tell files apart: a module that runs one has no weights of its own."""
        return f"sha256={self._digest}"


def latencies(
    paths: Mapping[str, Path], image: Tensor, *, threads: int, runs: int = TIMED_RUNS
) -> dict[str, float]:
    """Return the median milliseconds that each ONNX file takes for one prepared image (C, S, S).

    The files take turns, so that other work on the machine slows all of them alike.
    """
    sessions = {name: _session(path, threads=threads) for name, path in paths.items()}
    inputs = {INPUT: image[None].numpy()}
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for run in range(WARM_UP_RUNS + runs):
        for name, session in sessions.items():
            begin = perf_counter()
            session.run(None, inputs)
            if run >= WARM_UP_RUNS:
                times[name].append(1e3 * (perf_counter() - begin))
    return {name: median(own) for name, own in times.items()}


def _session(path: Path, *, threads: int = 0) -> Any:
    """Open an ONNX file; 0 threads are as many as onnxruntime chooses. Raises WeightsError."""
    runtime = _runtime(WeightsError, "Running an ONNX file")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has an own class for each way to fail
        raise WeightsError(
            f"{path} is not an ONNX file that onnxruntime can run ({type(error).__name__}): "
            "export again."
        ) from error


def _runtime(kind: type[ConfigError] | type[WeightsError], what: str) -> ModuleType:
    try:
        import onnxruntime
    except ImportError as error:
        raise kind(f"{what} needs onnxruntime: pip install 'mvmr[onnx]'.") from error
    runtime: ModuleType = onnxruntime
    return runtime
