"""Images as WebDataset tars, and the manifest that alone says what they contain."""
