"""What surrounds a program, checked once before it works: locale, folders, limits, other packages' settings."""

from __future__ import annotations

import codecs
import contextlib
import logging
import os
import sys
import warnings
from pathlib import Path

from captioner_core import temporary
from captioner_core.cache import cache_dir
from captioner_core.errors import CaptionerError
from captioner_core.streams import BEAM_CHATTER

LEAST_MEMORY = 1 << 30
"""Bytes of address space without which not even the libraries that read tables can be loaded."""
TENSORFLOW_MEMORY = 4 << 30
"""Bytes of address space that TensorFlow needs with Beam and the networks loaded: 3.3 GiB on a machine of two cores."""
_ALL_OF_OWNER = 0o700


def check() -> None:
    """Refuses an environment in which no work can go well, and makes this process' temporary folder.

    Raises:
      CaptionerError: file names can't be told, temporary files can't be written, the current folder is gone, this
        user may not read its own files, or there is too little memory.
    """
    encoding = sys.getfilesystemencoding()
    if codecs.lookup(encoding).name != "utf-8":
        raise CaptionerError(
            f"this locale's encoding {encoding!r} can't name every file; set LC_ALL=C.UTF-8, or PYTHONUTF8=1"
        )
    try:
        os.getcwd()
    except OSError as error:
        raise CaptionerError(
            f"the current folder can't be found ({error.strerror}); change to a folder that is there"
        ) from error
    umask = os.umask(0o077)
    os.umask(umask)
    if umask & _ALL_OF_OWNER:
        raise CaptionerError(f"umask {umask:04o} keeps you from files that you make; set another, such as umask 0022")
    check_memory(LEAST_MEMORY)
    temporary.begin()
    _settle_matplotlib()


def check_memory(needed: int) -> None:
    """Refuses an address space that is too small; native code would end the process without a word.

    Raises:
      CaptionerError: ``ulimit -v`` is below what is needed.
    """
    limit = _address_space()
    if limit is not None and limit < needed:
        raise CaptionerError(
            f"the address space is limited to {limit >> 20} MiB and {needed >> 20} MiB are needed; raise ulimit -v"
        )


def quiet_libraries() -> None:
    """Keeps off stderr what libraries say on every start; must come before they are imported.

    What goes wrong still comes as an exception.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    logging.getLogger().addFilter(_is_worth_saying)  # once, however often it is added
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it says when its list of fonts takes more than 5 s
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


def _is_worth_saying(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(BEAM_CHATTER)


def _address_space() -> int | None:
    try:
        import resource
    except ImportError:  # a system without such limits
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else int(limit)


def _settle_matplotlib() -> None:
    """Gives matplotlib a folder for its settings and its list of fonts where the user has none that can be written.

    It would complain, and leave a folder of its own behind.
    """
    if not os.environ.get("MPLCONFIGDIR") and not all(map(_is_writable, _matplotlib_folders())):
        os.environ["MPLCONFIGDIR"] = str(_own_folder() / "matplotlib")


def _matplotlib_folders() -> list[Path]:
    """Returns where matplotlib would look; a place that is none where this user has no home folder."""
    home = os.environ.get("HOME") or os.devnull
    return [
        Path(os.environ.get("XDG_CONFIG_HOME") or f"{home}/.config") / "matplotlib",
        Path(os.environ.get("XDG_CACHE_HOME") or f"{home}/.cache") / "matplotlib",
    ]


def _own_folder() -> Path:
    """Returns the cache, or the temporary folder where the cache can't be written."""
    with contextlib.suppress(CaptionerError):
        if _is_writable(cache_dir()):
            return cache_dir()
    return temporary.begin()


def _is_writable(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
