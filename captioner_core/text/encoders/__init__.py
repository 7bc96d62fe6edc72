"""Encoders that put captions into a space where cosine compares them; one file each."""

from captioner_core.text.encoders.base import TextEncoder, load_encoder

__all__ = ["TextEncoder", "load_encoder"]
