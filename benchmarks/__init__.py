"""Measurements that the documentation repeats; each is run by itself."""
