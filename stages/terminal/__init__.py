"""What the user types and sees: the command line, help, progress, tables, interruption."""
