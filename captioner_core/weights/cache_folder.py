"""Where fetched files are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

from captioner_core.errors import CaptionerError


def cache_dir() -> Path:
    """Returns ``$CAPTIONER_CACHE``, else ``captioner`` in the user's cache folder.

    Raises:
      CaptionerError: the variable is not set, and this user has no home folder.
    """
    named = os.environ.get("CAPTIONER_CACHE")
    if named:
        return Path(named).absolute()
    users = os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(users or Path.home() / ".cache").absolute() / "captioner"
    except RuntimeError as error:  # HOME is not set, and the user has no entry in the list of users
        raise CaptionerError(
            f"user {os.getuid()} has no home folder, where weights are kept; set CAPTIONER_CACHE to a folder for them"
        ) from error
