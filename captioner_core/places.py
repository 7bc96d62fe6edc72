"""Where a job may read and write: what every path and URI that a user names is held to.

No URI may hold a secret, since tables, manifests and logs state URIs. And where the environment
variable CAPTIONER_ROOTS is set, nothing outside its folders is read or written, whoever asks.
"""

from __future__ import annotations

import argparse
import os
import re
from urllib.parse import unquote

from captioner_core.errors import CaptionerError
from captioner_core.shown import has_secret, without_secret

ROOTS = "CAPTIONER_ROOTS"
"""Names the variable: folders and URI prefixes, one a line or with commas between them."""


def check_place(what: str, place: str) -> None:
    """Refuses a path or URI that holds a secret or lies outside the allowed roots.

    Args:
      what: names it, such as ``--images``.
      place: a path or a URI.

    Raises:
      CaptionerError: it does; the line names value, rule and remedy, and never the secret.
    """
    if has_secret(place):
        raise CaptionerError(
            f"{what} {without_secret(place)!r} holds a password or key; leave it out, and give credentials to the "
            "storage client by its environment variables or configuration file"
        )
    roots = allowed_roots()
    if roots is not None and not _is_below_one(place, roots):
        raise CaptionerError(
            f"{what} {place!r} lies outside the folders that {ROOTS} allows; name one below {', '.join(roots)}"
        )


def is_allowed(place: str) -> bool:
    """Whether a path or URI that a table names may be opened.

    Raises:
      CaptionerError: CAPTIONER_ROOTS is set badly.
    """
    roots = allowed_roots()
    return not has_secret(place) and (roots is None or _is_below_one(place, roots))


def place_argument(text: str) -> str:
    """The ``type`` of an argument of a command line that is a path or a URI.

    Raises:
      argparse.ArgumentTypeError: see ``check_place``.
    """
    try:
        check_place("path", text)
    except CaptionerError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def allowed_roots() -> tuple[str, ...] | None:
    """What CAPTIONER_ROOTS says: real paths and URIs; None where it is not set.

    Raises:
      CaptionerError: it is set and names nothing, or something relative. Empty is no way to say "everywhere".
    """
    setting = os.environ.get(ROOTS)
    if setting is None:
        return None
    named = [root.strip() for root in re.split(r"[\n,]", setting) if root.strip()]
    for root in named:
        if not os.path.isabs(root) and "://" not in root:
            raise CaptionerError(f"{ROOTS} names {root!r}, which must be an absolute path or a URI; mend the variable")
    if not named:
        raise CaptionerError(f"{ROOTS} is set and names no folder; name some, or unset it to allow all")
    return tuple(_prefix(root) if _is_remote(root) else os.path.realpath(_local(root)) for root in named)


def path_below(folder: str | os.PathLike[str], name: str) -> bytes | None:
    """The file that an id names below a folder, or None where it, ``..`` or a link would lead out of it."""
    if not stays_below(name):
        return None
    base = os.path.realpath(folder)
    path = os.path.realpath(os.path.join(base, name))
    return os.fsencode(path) if _starts(path, base) and path != base else None


def stays_below(name: str) -> bool:
    """Whether an id, joined to a folder's name, names something below it; links aside."""
    return bool(name) and not name.startswith("/") and "\0" not in name and ".." not in name.split("/")


def _is_below_one(place: str, roots: tuple[str, ...]) -> bool:
    # one reader of a URI takes %2e for a dot and another doesn't: both readings must be allowed
    readings = {place, unquote(place)} if "://" in place else {place}
    if _is_remote(place):
        # ".." means one thing to an object store and another to a file system; an endpoint in a query is another server
        plain = not any(re.search(r"[?#\0]|(^|/)\.\.(/|$)", reading) for reading in readings)
        return plain and all(any(_starts(_prefix(reading), root) for root in roots) for reading in readings)
    paths = [os.path.realpath(_local(reading)) for reading in readings if "\0" not in reading]
    return len(paths) == len(readings) and all(any(_starts(path, root) for root in roots) for path in paths)


def _starts(place: str, root: str) -> bool:
    return place == root or place.startswith(root.rstrip("/") + "/")


def _is_remote(place: str) -> bool:
    scheme, is_uri, _ = place.partition("://")
    return bool(is_uri) and scheme.lower() != "file"


def _local(place: str) -> str:
    return place.partition("://")[2] if "://" in place else place


def _prefix(uri: str) -> str:
    scheme, _, rest = uri.partition("://")
    return f"{scheme.lower()}://{rest.rstrip('/')}"
