"""Training of the captioner from features and human captions."""

from captioner_core.early import begin_if_main

begin_if_main()
