"""The process itself: signals, streams, its environment, temporary files and how errors are told."""
