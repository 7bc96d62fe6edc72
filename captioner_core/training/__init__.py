"""Training of the captioner from features and human captions."""
