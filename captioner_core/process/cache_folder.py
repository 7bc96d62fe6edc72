"""The folder that keeps downloaded files between runs."""

import os
from pathlib import Path

from captioner_core.errors import CaptionerError


def cache_dir() -> Path:
    """Returns ``$CAPTIONER_CACHE``, or else the folder ``captioner`` in the user's cache folder.

    Raises:
      CaptionerError: the variable is not set, and the user has no home folder.
    """
    captioner_cache = os.environ.get("CAPTIONER_CACHE")
    if captioner_cache:
        return Path(captioner_cache).absolute()
    user_cache = os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(user_cache or Path.home() / ".cache").absolute() / "captioner"
    except RuntimeError as error:  # HOME is not set, and the user is not in the list of users.
        raise CaptionerError(
            f"user {os.getuid()} has no home folder, where weights are kept; set CAPTIONER_CACHE "
            "to a folder for them"
        ) from error
