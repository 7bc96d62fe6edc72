"""The captioner: an LSTM decoder over image features, its search and its files."""
