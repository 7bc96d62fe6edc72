"""Where a job may read and write: what every path and URI that a user names is held to.

No URI may hold a secret, since tables, manifests and logs state URIs. And where the environment
variable CAPTIONER_ROOTS is set, nothing outside its folders is read or written, whoever asks.
"""

from __future__ import annotations

import argparse
import os
import re
from urllib.parse import unquote, unquote_to_bytes

from captioner_core.errors import CaptionerError
from captioner_core.images.image_ids import file_name_of
from captioner_core.security.redaction import has_secret, without_secret

ROOTS = "CAPTIONER_ROOTS"
"""Names the variable: folders and URI prefixes, one a line or with commas between them."""

_FILE_URI = re.compile(r"file:", re.IGNORECASE)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_OTHER_SPELLINGS = {"s3a": "s3", "s3n": "s3", "gcs": "gs"}
# Beam's client for HDFS tells no folder from a file, so what lies in folders within folders would be lost
_HADOOP_SCHEMES = ("hdfs", "webhdfs", "swebhdfs", "viewfs", "har")
_NETWORK_SCHEMES = (
    "ftp",
    "ftps",
    "sftp",
    "ssh",
    "scp",
    "rsync",
    "smb",
    "cifs",
    "nfs",
    "afp",
    "dav",
    "davs",
    "webdav",
)


def check_uri(what: str, place: str) -> None:
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


def uri_argument(text: str) -> str:
    """Returns a command line's path or URI in its plain form; the ``type`` of an argument.

    Raises:
      argparse.ArgumentTypeError: see ``check_uri`` and ``normalize_uri``.
    """
    try:
        check_uri("path", text)
        plain = normalize_uri(text)
        check_uri("path", plain)
    except CaptionerError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return plain


def normalize_uri(text: str) -> str:
    """Returns a path or URI that a user wrote in the form that everything else expects.

    A leading ``~`` becomes the home folder, a ``file:`` URI the path that it stands for, and a scheme is written in
    lower case. A URI that holds a secret comes back as it is, for ``check_uri`` to refuse.

    Raises:
      CaptionerError: the URI is of a kind that can't be read, or a ``file:`` URI without an absolute path.
    """
    if has_secret(text):
        return text
    if text.startswith("~"):
        return _expanded(text)
    if _FILE_URI.match(text):
        return local_path_of(text)
    scheme, is_uri, rest = text.partition("://")
    if not is_uri or not _SCHEME.fullmatch(scheme):
        return text
    check_scheme(text)
    return f"{scheme.lower()}://{rest}"


def _expanded(text: str) -> str:
    expanded = os.path.expanduser(text)
    if expanded == text and text.partition("/")[0] == "~":
        raise CaptionerError(
            f"{text!r} names the home folder, and nothing says where it is; write the whole path"
        )
    return expanded


def is_remote(place: str) -> bool:
    """Returns whether a path or URI names something other than local files."""
    scheme, is_uri, _ = place.partition("://")
    return bool(is_uri) and scheme.lower() != "file"


def local_path_of(place: str) -> str:
    """Returns the path that a ``file:`` URI stands for; a path comes back as it is.

    Args:
      place: such as ``file:///data/my%20photos``, ``file://localhost/data`` or ``/data``.

    Raises:
      CaptionerError: the URI names no absolute path on this machine.
    """
    if not _FILE_URI.match(place):
        return place
    rest = place.partition(":")[2]
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        rest = slash + path if host.lower() in ("", "localhost") else ""
    path = os.fsdecode(unquote_to_bytes(rest))
    if not path.startswith("/") or "\0" in path:
        raise CaptionerError(
            f"{place!r} names no absolute path on this machine; write file:///FOLDER, or the path alone"
        )
    return path


def check_scheme(uri: str) -> None:
    """Refuses a URI of a kind that can't be read or written, with advice for that kind.

    Args:
      uri: a path or a URI without a secret.

    Raises:
      CaptionerError: it is of such a kind.
    """
    scheme, is_uri, rest = uri.partition("://")
    scheme = scheme.lower()
    if not is_uri:
        return
    if scheme in ("http", "https"):
        advice = _advice_on_web_address(rest)
    elif scheme in _OTHER_SPELLINGS:
        advice = f"write {_OTHER_SPELLINGS[scheme]}://{rest}"
    elif scheme in _HADOOP_SCHEMES:
        advice = "mount the file system and name the folder, or copy the files to an object store"
    elif scheme in _NETWORK_SCHEMES:
        advice = "mount the server's folder and name it, or copy the files here"
    else:
        return
    raise CaptionerError(f"{uri!r} can't be used, since captioner doesn't speak {scheme}; {advice}")


def _advice_on_web_address(rest: str) -> str:
    """Returns what to write in place of a web address; some stores' addresses say which URI is meant."""
    host, _, path = rest.partition("/")
    host = host.lower()
    if found := re.fullmatch(r"([a-z0-9.-]+)\.s3[a-z0-9.-]*\.amazonaws\.com", host):
        return f"write s3://{found[1]}/{path}"
    if re.fullmatch(r"s3[a-z0-9.-]*\.amazonaws\.com", host):
        return f"write s3://{path}"
    if host in ("storage.googleapis.com", "storage.cloud.google.com"):
        return f"write gs://{path}"
    return "download the files and name their folder, or name the bucket as s3://BUCKET/FOLDER or gs://BUCKET/FOLDER"


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
            raise CaptionerError(
                f"{ROOTS} names {root!r}, which must be an absolute path or a URI; mend the variable"
            )
    if not named:
        raise CaptionerError(
            f"{ROOTS} is set and names no folder; name some, or unset it to allow all"
        )
    return tuple(
        _prefix(root) if is_remote(root) else os.path.realpath(_local(root)) for root in named
    )


def path_below(folder: str | os.PathLike[str], image_id: str) -> bytes | None:
    """Returns the file that an image id names below a folder.

    Args:
      folder: of images.
      image_id: see ``image_ids``.

    Returns:
      Its real path; None where the id, ``..`` or a link would lead out of the folder.
    """
    name = os.fsdecode(file_name_of(image_id))
    if not stays_below(image_id) or not stays_below(name):
        return None
    base = os.path.realpath(folder)
    path = os.path.realpath(os.path.join(base, name))
    return os.fsencode(path) if _starts(path, base) and path != base else None


def stays_below(name: str) -> bool:
    """Whether an id, joined to a folder's name, names something below it; links aside."""
    return (
        bool(name) and not name.startswith("/") and "\0" not in name and ".." not in name.split("/")
    )


def _is_below_one(place: str, roots: tuple[str, ...]) -> bool:
    # one reader of a URI takes %2e for a dot and another doesn't: both readings must be allowed
    readings = {place, unquote(place)} if "://" in place else {place}
    if is_remote(place):
        # ".." means one thing to an object store and another to a file system; an endpoint in a query is another server
        plain = not any(re.search(r"[?#\0]|(^|/)\.\.(/|$)", reading) for reading in readings)
        return plain and all(
            any(_starts(_prefix(reading), root) for root in roots) for reading in readings
        )
    paths = [os.path.realpath(_local(reading)) for reading in readings if "\0" not in reading]
    return len(paths) == len(readings) and all(
        any(_starts(path, root) for root in roots) for path in paths
    )


def _starts(place: str, root: str) -> bool:
    return place == root or place.startswith(root.rstrip("/") + "/")


def _local(place: str) -> str:
    return place.partition("://")[2] if "://" in place else place


def _prefix(uri: str) -> str:
    scheme, _, rest = uri.partition("://")
    return f"{scheme.lower()}://{rest.rstrip('/')}"
