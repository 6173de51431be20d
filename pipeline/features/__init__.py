"""What is stored of representations: computed once, reduced, checked, read for years."""
