"""Encoders, the files that hold them, and what others use them by."""
