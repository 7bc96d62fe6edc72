"""Engines that run the feature network; a new one is one file and one entry in ``base``."""

from captioner_core.features.engines.base import (
    Engine,
    FeatureNetwork,
    choose_engine,
    load_engine,
    resolve_engine,
)

__all__ = [
    "Engine",
    "FeatureNetwork",
    "choose_engine",
    "load_engine",
    "resolve_engine",
]
