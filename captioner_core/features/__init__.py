"""Networks that turn pictures into features; a new one is one file and one entry here."""

from captioner_core.features.base import Backbone, load_backbone

__all__ = ["Backbone", "load_backbone"]
