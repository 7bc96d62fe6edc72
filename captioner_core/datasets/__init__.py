"""Datasets: images with human captions, from wherever they come, in one form of folder."""

from captioner_core.datasets.base import DatasetSummary, is_built, link_split

__all__ = ["DatasetSummary", "is_built", "link_split"]
