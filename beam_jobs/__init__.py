"""The Beam jobs: they compose what ``captioner_core`` computes, and decide nothing."""
