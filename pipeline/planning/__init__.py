"""What an experiment will cost, from running it on a few of its images."""
