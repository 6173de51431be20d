"""What one GPU achieves with this project, in ten minutes. See `__main__`."""
