"""Conditions that a program needs, checked once before it works: locale, folders, limits.

This module also keeps the settings of other libraries from disturbing a program.
"""

import codecs
import contextlib
import logging
import os
import sys
import warnings
from pathlib import Path

from captioner_core.errors import CaptionerError
from captioner_core.process import cache_folder, streams, temporary_folder

MINIMUM_MEMORY = 1 << 30
"""Address space, in bytes, below which even the libraries that read tables cannot be loaded."""
TENSORFLOW_MEMORY = 4 << 30
"""Address space, in bytes, that TensorFlow needs together with Beam and the networks.

Measured on a machine with two cores: 3.3 GiB.
"""
_OWNER_BITS = 0o700


def check() -> None:
    """Refuses an environment in which no work can succeed; creates the temporary folder.

    Raises:
      CaptionerError: the locale cannot represent every file name, the current folder no longer
        exists, the umask keeps the user from the user's own files, temporary files cannot be
        written, or there is too little memory.
    """
    encoding = sys.getfilesystemencoding()
    if codecs.lookup(encoding).name != "utf-8":
        raise CaptionerError(
            f"this locale's encoding {encoding!r} can't represent every file name; set "
            "LC_ALL=C.UTF-8, or PYTHONUTF8=1"
        )
    try:
        os.getcwd()
    except OSError as error:
        raise CaptionerError(
            f"the current folder can't be found ({error.strerror}); change to an existing folder"
        ) from error
    umask = os.umask(0o077)  # The umask can only be read by setting it.
    os.umask(umask)
    if umask & _OWNER_BITS:
        raise CaptionerError(
            f"umask {umask:04o} denies you access to files that you create; set another, such as "
            "umask 0022"
        )
    check_memory(MINIMUM_MEMORY)
    temporary_folder.begin()
    _configure_matplotlib()


def check_memory(needed: int) -> None:
    """Refuses an address space that is too small: native code would end the process silently.

    Args:
      needed: address space that the work needs, in bytes.

    Raises:
      CaptionerError: the limit ``ulimit -v`` is lower.
    """
    limit = _address_space()
    if limit is not None and limit < needed:
        raise CaptionerError(
            f"the address space is limited to {limit >> 20} MiB and {needed >> 20} MiB are needed; "
            "raise ulimit -v"
        )


def quiet_libraries() -> None:
    """Hides what libraries print on every start; must be called before they are imported.

    Errors are still raised as exceptions.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    logging.getLogger().addFilter(_is_not_chatter)  # Adding the same filter again has no effect.
    # matplotlib warns if it takes more than five seconds to list the fonts of a new home folder.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


def _is_not_chatter(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(streams.BEAM_CHATTER)


def _address_space() -> int | None:
    try:
        import resource
    except ImportError:  # The operating system has no such limits.
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else int(limit)


def _configure_matplotlib() -> None:
    """Gives matplotlib a folder for its settings and fonts if the user's folders are not writable.

    Otherwise matplotlib would print a warning and leave a temporary folder behind.
    """
    if not os.environ.get("MPLCONFIGDIR") and not all(map(_is_writable, _matplotlib_folders())):
        os.environ["MPLCONFIGDIR"] = str(_writable_folder() / "matplotlib")


def _matplotlib_folders() -> list[Path]:
    """Returns the folders that matplotlib uses by default; they cannot exist if HOME is not set."""
    home = os.environ.get("HOME") or os.devnull
    return [
        Path(os.environ.get("XDG_CONFIG_HOME") or f"{home}/.config") / "matplotlib",
        Path(os.environ.get("XDG_CACHE_HOME") or f"{home}/.cache") / "matplotlib",
    ]


def _writable_folder() -> Path:
    """Returns captioner's cache, or the temporary folder if the cache is not writable."""
    with contextlib.suppress(CaptionerError):
        if _is_writable(cache_folder.cache_dir()):
            return cache_folder.cache_dir()
    return temporary_folder.begin()


def _is_writable(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
