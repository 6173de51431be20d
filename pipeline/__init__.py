"""MV-MR: train image encoders on images and cached representations of them."""
