"""Training on several processes: which hosts there are, and what each process does."""
