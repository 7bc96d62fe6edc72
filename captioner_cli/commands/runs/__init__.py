"""Commands that write runs."""
