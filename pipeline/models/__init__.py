"""Encoders, the files that hold them, and their use from Python and other programs."""
