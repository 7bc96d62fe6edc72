"""Runs: how their outputs are committed, taken over from earlier runs, and verified."""
