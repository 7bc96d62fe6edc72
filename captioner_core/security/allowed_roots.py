"""Where a job may read and write: rules for every path and URI that a user names.

* No URI may contain a secret, because tables, manifests and logs record URIs.
* If the environment variable CAPTIONER_ROOTS is set, nothing outside its folders is read or
  written.
"""

import argparse
import os
import re
from urllib.parse import unquote

from captioner_core.errors import CaptionerError
from captioner_core.security import paths, redaction, uris

ROOTS = "CAPTIONER_ROOTS"
"""Environment variable of folders and URI prefixes, separated by line ends or commas."""

# An object store and a file system read ".." differently, and a query may name another server.
_AMBIGUOUS = re.compile(r"[?#\0]|(^|/)\.\.(/|$)")


def check_uri(label: str, uri: str) -> None:
    """Refuses a path or URI that contains a secret or lies outside the allowed roots.

    Args:
      label: what names the URI, such as ``--images``, for the error message.
      uri: path or URI.

    Raises:
      CaptionerError: the URI breaks one of the two rules. The message does not repeat the secret.
    """
    if redaction.has_secret(uri):
        raise CaptionerError(
            f"{label} {redaction.redact_uri(uri)!r} contains a password or key; "
            "leave it out, and give credentials to the storage client by its environment "
            "variables or configuration file"
        )
    roots = allowed_roots()
    if roots is not None and not _is_below_any(uri, roots):
        raise CaptionerError(
            f"{label} {uri!r} lies outside the folders that {ROOTS} allows; name one below "
            f"{', '.join(roots)}"
        )


def is_allowed(uri: str) -> bool:
    """Returns whether a path or URI that a table names may be opened.

    Raises:
      CaptionerError: CAPTIONER_ROOTS is set to an invalid value.
    """
    roots = allowed_roots()
    return not redaction.has_secret(uri) and (roots is None or _is_below_any(uri, roots))


def uri_argument(text: str) -> str:
    """Checks and normalizes a path or URI of a command line; the ``type`` of an argument.

    Raises:
      argparse.ArgumentTypeError: see ``check_uri`` and ``normalize_uri``.
    """
    try:
        check_uri("path", text)
        uri = uris.normalize_uri(text)
        check_uri("path", uri)
    except CaptionerError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return uri


def allowed_roots() -> tuple[str, ...] | None:
    """Returns the real paths and URIs that CAPTIONER_ROOTS lists, or None if it is not set.

    Raises:
      CaptionerError: the variable lists nothing, or a relative path. An empty variable does not
        allow everything.
    """
    setting = os.environ.get(ROOTS)
    if setting is None:
        return None
    roots = [root.strip() for root in re.split(r"[\n,]", setting) if root.strip()]
    for root in roots:
        if not os.path.isabs(root) and "://" not in root:
            raise CaptionerError(
                f"{ROOTS} contains {root!r}, which must be an absolute path or a URI; correct the "
                "variable"
            )
    if not roots:
        raise CaptionerError(
            f"{ROOTS} is set but contains no folder; add one, or unset it to allow all folders"
        )
    return tuple(
        _normalize_prefix(root) if uris.is_remote(root) else os.path.realpath(_without_scheme(root))
        for root in roots
    )


def _is_below_any(uri: str, roots: tuple[str, ...]) -> bool:
    # Some readers of a URI decode %2e as a dot, and others do not. Both readings must be allowed.
    readings = {uri, unquote(uri)} if "://" in uri else {uri}
    if uris.is_remote(uri):
        if any(_AMBIGUOUS.search(reading) for reading in readings):
            return False
        locations = [_normalize_prefix(reading) for reading in readings]
    else:
        if any("\0" in reading for reading in readings):
            return False
        locations = [os.path.realpath(_without_scheme(reading)) for reading in readings]
    return all(
        any(paths.has_path_prefix(location, root) for root in roots) for location in locations
    )


def _without_scheme(uri: str) -> str:
    return uri.partition("://")[2] if "://" in uri else uri


def _normalize_prefix(uri: str) -> str:
    scheme, _, rest = uri.partition("://")
    return f"{scheme.lower()}://{rest.rstrip('/')}"
