"""Training of captioners and of the learned encoder from features and human captions."""

from captioner_core.process.startup import begin_if_main

begin_if_main()
