"""Command lines: parsing of arguments and progress bars."""
