"""What one GPU makes of this project, in ten minutes. See `__main__`."""
