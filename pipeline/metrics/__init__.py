"""Metrics that training's probes and evaluation share: pure functions of tensors or arrays."""
