"""The Beam jobs: they compose what ``captioner_core`` computes, and decide nothing."""

from captioner_core.process.startup import begin_if_main

begin_if_main()
