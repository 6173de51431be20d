"""Distance correlation: how strongly two sets of vectors depend on each other."""
