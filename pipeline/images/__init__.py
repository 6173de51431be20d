"""From an image file to the pixels that a student sees: the original view and random views."""
