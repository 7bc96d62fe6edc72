"""Trained models: the registry that says which of them is the current one."""
