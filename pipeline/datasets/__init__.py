"""Sources of images, each in its usual layout on disk; `sources` lists every kind."""
