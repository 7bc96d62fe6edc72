"""Benchmarks, each beside a named peer in the same run; ``make bench`` runs all of them."""
