"""The names of a dataset's splits, and other names that users and published datasets use."""

from captioner_core.tables.schemas import DatasetCaptionRow

_ALIASES = {
    **{name: name for name in DatasetCaptionRow.SPLITS},
    "val": "dev",
    "valid": "dev",
    "validation": "dev",
    # Karpathy and Fei-Fei's splits of COCO also train on the remaining validation images.
    "restval": "train",
}
SPLIT_NAMES = "train, dev (or val, valid, validation) or test"
"""The accepted names, for messages and help texts."""


def canonical_split(name: str) -> str | None:
    """Returns the split that a name stands for, or None; upper and lower case are the same.

    >>> canonical_split("Validation")
    'dev'
    """
    return _ALIASES.get(name.strip().lower())
