"""The library below `mvmr`: it takes values, never a config, a path convention or a console."""
