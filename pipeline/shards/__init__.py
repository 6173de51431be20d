"""Images as WebDataset tars, with a manifest that is the only source of what is in them."""
