"""Tables: the paths, schemas and columns of every table of a run."""
