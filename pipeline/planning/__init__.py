"""Estimating what an experiment will cost by running it on a few of its images."""
