"""The names of a dataset's splits, and the other names that users and published datasets give them."""

from __future__ import annotations

from captioner_core.tables.schemas import DatasetCaptionRow

_ALIASES = {
    **{name: name for name in DatasetCaptionRow.SPLITS},
    "val": "dev",
    "valid": "dev",
    "validation": "dev",
    # Karpathy and Fei-Fei's splits of COCO train on the rest of the validation images.
    "restval": "train",
}
SPLIT_NAMES = "train, dev (or val, valid, validation) or test"
"""The names that are accepted, for messages and help texts."""


def canonical_split(name: str) -> str | None:
    """Returns the split that a name means, in any case, or None where it means none.

    >>> canonical_split("Validation")
    'dev'
    """
    return _ALIASES.get(name.strip().lower())
