"""Stored representations: computed once, reduced, checked, and read for years."""
