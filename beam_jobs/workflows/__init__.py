"""Whole runs made of several jobs, one after the other in one process."""
