"""Fixed maps from an image to a vector; `table` lists them all by name."""
