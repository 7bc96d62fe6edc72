"""Text: tokens, the vocabulary, and encoders of captions."""
