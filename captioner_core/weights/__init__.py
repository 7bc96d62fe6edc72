"""Network weights and word vectors: where they come from, and the cache that keeps them."""
