"""Training of the captioner from features and human captions."""

from captioner_core.process.startup import begin_if_main

begin_if_main()
