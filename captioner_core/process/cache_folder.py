"""Locates the folder that keeps downloaded files between runs."""

from __future__ import annotations

import os
from pathlib import Path

from captioner_core.errors import CaptionerError


def cache_dir() -> Path:
    """Returns ``$CAPTIONER_CACHE``, or ``captioner`` in the user's cache folder if it is not set.

    Raises:
      CaptionerError: the variable is not set, and the user has no home folder.
    """
    if own_cache := os.environ.get("CAPTIONER_CACHE"):
        return Path(own_cache).absolute()
    user_cache = os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(user_cache or Path.home() / ".cache").absolute() / "captioner"
    except RuntimeError as error:  # HOME is not set, and the user database has no such user
        raise CaptionerError(
            f"user {os.getuid()} has no home folder to keep weights in; "
            "set CAPTIONER_CACHE to a folder for them"
        ) from error
