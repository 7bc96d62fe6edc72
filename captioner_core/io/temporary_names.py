"""Names of files that are still being written.

A file is written under a temporary name and then renamed, so that readers see either the old file
or the complete new one. The names are random, so that a file of somebody else is never overwritten.
"""

import re
from uuid import uuid4

_TEMPORARY_SUFFIX = re.compile(r"\.[0-9a-f]{32}\.tmp")


def temporary_name(name: str) -> str:
    """Returns a new name under which a file is written before it is renamed to ``name``."""
    return f"{name}.{uuid4().hex}.tmp"


def is_temporary_name(name: str, final_name: str) -> bool:
    """Returns whether ``temporary_name(final_name)`` could have returned this name."""
    return (
        name.startswith(final_name)
        and _TEMPORARY_SUFFIX.fullmatch(name[len(final_name) :]) is not None
    )
