"""Datasets: images with human captions. Each source becomes a dataset folder of the same form."""

from captioner_core.datasets.dataset_folder import DatasetSummary, check_dataset_output, is_built
from captioner_core.datasets.split_folder import check_split_output, link_split

__all__ = ["DatasetSummary", "check_dataset_output", "check_split_output", "is_built", "link_split"]
