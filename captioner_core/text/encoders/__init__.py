"""Encoders that turn captions into unit vectors whose cosine is their similarity; one file each.

An encoder is a class that follows ``base.TextEncoder``, and an entry in the table of ``base``.
``calibration`` makes the scores of different encoders comparable; ``text.calibration`` fits it.
"""

from captioner_core.text.encoders.base import TextEncoder, load_encoder

__all__ = ["TextEncoder", "load_encoder"]
