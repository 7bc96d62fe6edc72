"""A folder of models: which model is the current one, and which may become it."""
