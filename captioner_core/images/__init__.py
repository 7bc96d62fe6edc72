"""Images: lists a folder, and decodes its files in separate processes."""
