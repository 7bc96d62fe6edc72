"""Text: tokens, the captioner's vocabulary, and encoders that turn captions into vectors."""
