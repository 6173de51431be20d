"""Images and cached targets together, aligned by construction."""
