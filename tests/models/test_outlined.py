"""An encoder without weights has the names and shapes of one that has them, and costs little."""

import subprocess
import sys

import pytest

from pipeline.models.encoder import build_encoder, outlined
from pipeline.models.student import StudentOptions

STUDENTS = ("resnet8", "resnet18", "timm:test_resnet", "timm:test_vit")


@pytest.mark.parametrize("architecture", STUDENTS)
def test_names_and_shapes_are_those_of_the_encoder(architecture: str) -> None:
    options = StudentOptions.model_validate({"architecture": architecture})
    size = 160 if architecture.endswith("vit") else 32
    outline = outlined(options, channels=3, size=size)
    encoder = build_encoder(options, channels=3, size=size, seed=0)
    assert (outline.h_width, outline.z_width) == (encoder.h_width, encoder.z_width)
    shapes = {name: value.shape for name, value in encoder.state_dict().items()}
    assert {name: value.shape for name, value in outline.state_dict().items()} == shapes
    assert all(value.is_meta for value in outline.parameters())


def test_no_compiler_is_imported() -> None:
    code = (
        "import sys; from pipeline.models.encoder import outlined;"
        "from pipeline.models.student import StudentOptions;"
        "outlined(StudentOptions(architecture='resnet8x2'), channels=3, size=32);"
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
