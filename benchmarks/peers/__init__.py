"""Distillation beside what people would use instead. See `__main__`."""
