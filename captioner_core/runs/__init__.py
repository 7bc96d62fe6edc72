"""Runs: how outputs are committed, images identified, results reused and verified; the inbox."""
