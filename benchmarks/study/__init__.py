"""A study of which objective makes the best encoder in one small budget. See `__main__`."""
