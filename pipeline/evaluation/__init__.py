"""Evaluation of frozen features: one file per protocol, and what the protocols share."""
