"""Datasets: images with human captions, from wherever they come, in one form of folder."""

from captioner_core.datasets.base import (
    DatasetSummary,
    check_dataset_output,
    check_split_output,
    is_built,
    link_split,
)

__all__ = ["DatasetSummary", "check_dataset_output", "check_split_output", "is_built", "link_split"]
