"""Students: a backbone that is kept, and a projector that only training needs."""

from pipeline.encoders.encoder import (
    Encoder,
    build_encoder,
    load_pretrained,
    load_weights,
    parameters_count,
)
from pipeline.encoders.options import PRETRAINED, StudentOptions

__all__ = [
    "PRETRAINED",
    "Encoder",
    "StudentOptions",
    "build_encoder",
    "load_pretrained",
    "load_weights",
    "parameters_count",
]
