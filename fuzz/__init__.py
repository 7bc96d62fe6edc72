"""Coverage-guided fuzzing of the code that reads untrusted bytes: ``python -m fuzz``."""
