"""Frozen networks as representations; `pipeline.representations.table` lists them by name."""
