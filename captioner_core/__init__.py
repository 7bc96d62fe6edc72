"""What captioner computes, free of Beam and Airflow; importing it loads nothing heavy."""

from captioner_core.errors import CaptionerError

__all__ = ["CaptionerError", "__version__"]

__version__ = "0.1.0"
