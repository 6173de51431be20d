"""Fixed maps from an image to a vector; `kinds` lists them all by name."""
