"""What commands and the library `mvmr` do for one experiment: paths come in, nothing is printed."""
