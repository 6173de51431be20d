"""One experiment: the schema of its file, its paths, and the state of each stage."""
