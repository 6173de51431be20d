"""One experiment: the schema of its file, where its parts lie, and how far each stage is."""
