"""ONNX files in int8: how close they stay to float, what calibration decides, and timing."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from pipeline.base.errors import WeightsError
from pipeline.images.original_view import ImageOptions, normalise
from pipeline.models.checkpoint import Checkpoint
from pipeline.models.encoder import build_encoder
from pipeline.models.onnx_file import OnnxModule, latencies, quantise, write_onnx
from pipeline.models.student import StudentOptions

IMAGE = ImageOptions(size=16, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
IMAGES = torch.randint(
    0, 256, (40, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a ResNet in float and, calibrated on `IMAGES`, in int8."""
    folder = tmp_path_factory.mktemp("onnx")
    student = StudentOptions(architecture="resnet8x2", projector=())
    weights = build_encoder(student, channels=3, size=16, seed=1).state_dict()
    network = Checkpoint(student, IMAGE, weights, None, {}).build().backbone
    paths = {"float": folder / "x.onnx", "int8": folder / "x.int8.onnx"}
    write_onnx(network, IMAGE, paths["float"])
    quantise(paths["float"], paths["int8"], IMAGES, IMAGE)
    return paths


def scales_of_input(path: Path) -> list[float]:
    """Return the scales by which a file quantises its images."""
    graph = onnx.load(path).graph
    constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    nodes = [n for n in graph.node if n.op_type == "QuantizeLinear" and n.input[0] == "images"]
    return [float(constants[node.input[1]]) for node in nodes]


def test_int8_is_near_to_float_and_smaller(files: dict[str, Path]) -> None:
    x = normalise(IMAGES, IMAGE)
    one, other = (OnnxModule(files[name])(x) for name in ("float", "int8"))
    assert torch.cosine_similarity(one, other).min() > 0.99
    assert not torch.equal(one, other)
    assert files["int8"].stat().st_size < 0.5 * files["float"].stat().st_size


def test_weights_are_int8_with_a_scale_for_each_channel(files: dict[str, Path]) -> None:
    graph = onnx.load(files["int8"]).graph
    constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    kernels = {n: c for n, c in constants.items() if c.ndim == 4}
    assert kernels
    originals = [numpy_helper.to_array(w) for w in onnx.load(files["float"]).graph.initializer]
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in kernels:
            kernel, scale = kernels.pop(node.input[0]), constants[node.input[1]]
            assert kernel.dtype == np.int8
            assert scale.shape == kernel.shape[:1]
            restored = kernel * scale[:, None, None, None]
            errors = [
                np.abs(restored - own) / scale[:, None, None, None]
                for own in originals
                if own.shape == kernel.shape
            ]
            assert min(error.max() for error in errors) <= 0.5 + 1e-3  # rounded to the nearest
    assert kernels == {}


def test_every_calibration_image_counts(files: dict[str, Path], tmp_path: Path) -> None:
    grey = torch.full_like(IMAGES, 128)
    grey[-1, 0] = 255  # in the last batch
    grey[0, 1] = 0
    quantise(files["float"], tmp_path / "grey.onnx", grey, IMAGE)
    dull = torch.full_like(IMAGES, 128)
    quantise(files["float"], tmp_path / "dull.onnx", dull, IMAGE)
    (wide,), (narrow,) = (scales_of_input(tmp_path / f"{n}.onnx") for n in ("grey", "dull"))
    assert wide == pytest.approx(1 / 0.2 / 255, rel=0.02)  # black to white, over 255 steps
    assert narrow < 0.1 * wide


@pytest.mark.slow  # measures for half a minute
def test_a_smaller_network_is_faster(files: dict[str, Path], tmp_path: Path) -> None:
    student = StudentOptions(architecture="resnet56x4", projector=())
    large = build_encoder(student, channels=3, size=16, seed=1).backbone.eval()
    write_onnx(large, IMAGE, tmp_path / "large.onnx")
    paths = {"small": files["float"], "large": tmp_path / "large.onnx"}
    found = latencies(paths, normalise(IMAGES[0], IMAGE), threads=1, runs=7)
    assert 0 < found["small"] < found["large"]


def test_files_are_told_apart(files: dict[str, Path]) -> None:
    assert repr(OnnxModule(files["float"])) != repr(OnnxModule(files["int8"]))


def test_what_is_no_onnx_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"weights")
    with pytest.raises(WeightsError, match="not an ONNX file that onnxruntime can run"):
        OnnxModule(tmp_path / "x.onnx")
