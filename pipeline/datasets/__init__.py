"""Sources of images, each in the form in which people have it; `table` lists them by kind."""
