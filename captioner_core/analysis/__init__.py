"""Analyses of results: caption metrics, thresholds, and similar images."""
