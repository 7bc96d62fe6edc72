"""Networks that turn images into features; a new one is one file and one entry in ``base``."""

from captioner_core.features.base import Backbone, load_backbone

__all__ = ["Backbone", "load_backbone"]
