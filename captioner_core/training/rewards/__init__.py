"""Rewards of sampled captions, and the advantages that self-critical training uses."""
