"""Images: listing a folder, and decoding its files in processes of their own."""
