"""Students: a backbone that is kept, and a projector that only training needs."""

from pipeline.encoders.encoder import Encoder, build_encoder, load_weights, parameters_count
from pipeline.encoders.options import StudentOptions

__all__ = ["Encoder", "StudentOptions", "build_encoder", "load_weights", "parameters_count"]
