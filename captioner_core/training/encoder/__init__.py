"""Training of the learned encoder, which maps captions and images into one space."""
