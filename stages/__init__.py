"""The commands: paths, printing and progress live here; the work is done in `pipeline`."""
