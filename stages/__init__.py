"""The commands: paths, printing and progress live here; `pipeline` does the work."""
