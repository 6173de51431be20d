"""Loading images together with their cached targets, aligned by construction."""
