"""Reading and writing: storage, output folders, JSON, tensors."""
