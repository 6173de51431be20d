"""Frozen networks as representations; `pipeline.representations.kinds` lists them by name."""
