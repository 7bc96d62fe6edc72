"""Images: listing a folder, and decoding its files in separate processes."""
