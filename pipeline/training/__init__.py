"""Training a student on images and cached targets: self-supervision, distillation, or both."""
