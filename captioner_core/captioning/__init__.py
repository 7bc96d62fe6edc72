"""The captioner: an LSTM decoder over image features, its beam search, and its model folder."""
