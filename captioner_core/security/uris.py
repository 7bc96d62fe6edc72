"""Paths and URIs as users write them: which local path or store they name.

No function here reads or writes anything.
"""

import os
import re
from urllib.parse import unquote_to_bytes

from captioner_core.errors import CaptionerError
from captioner_core.security.redaction import has_secret

_FILE_URI = re.compile(r"file:", re.IGNORECASE)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_EQUIVALENT_SCHEMES = {"s3a": "s3", "s3n": "s3", "gcs": "gs"}
# File systems of Hadoop, for which there is no client.
_HADOOP_SCHEMES = ("hdfs", "webhdfs", "swebhdfs", "viewfs", "har")
_NETWORK_SCHEMES = (
    *("ftp", "ftps", "sftp", "ssh", "scp", "rsync"),
    *("smb", "cifs", "nfs", "afp", "dav", "davs", "webdav"),
)


def is_remote(uri: str) -> bool:
    """Returns whether a path or URI names something other than local files.

    >>> is_remote("s3://bucket/photos"), is_remote("file:///photos"), is_remote("photos")
    (True, False, False)
    """
    scheme, is_uri, _ = uri.partition("://")
    return bool(is_uri) and scheme.lower() != "file"


def local_path_of(uri: str) -> str:
    """Returns the path that a ``file:`` URI names; a path is returned unchanged.

    >>> local_path_of("file:///data/my%20photos"), local_path_of("/data/my photos")
    ('/data/my photos', '/data/my photos')

    Args:
      uri: such as ``file:///data/my%20photos``, ``file://localhost/data`` or ``/data``.

    Raises:
      CaptionerError: the URI does not name an absolute path on this machine.
    """
    if not _FILE_URI.match(uri):
        return uri
    rest = uri.partition(":")[2]
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        rest = slash + path if host.lower() in ("", "localhost") else ""
    path = os.fsdecode(unquote_to_bytes(rest))
    if not path.startswith("/") or "\0" in path:
        raise CaptionerError(
            f"{uri!r} does not name an absolute path on this machine; write file:///FOLDER, or the "
            "path alone"
        )
    return path


def normalize_uri(text: str) -> str:
    """Returns a path or URI in the form that the rest of the code expects.

    A leading ``~`` becomes the home folder, a ``file:`` URI becomes a path, and a scheme becomes
    lower case. A URI that contains a secret is returned unchanged, because ``check_uri`` refuses
    it.

    Args:
      text: path or URI that a user wrote.

    Raises:
      CaptionerError: the URI has a scheme that captioner cannot use, or is a ``file:`` URI without
        an absolute path.
    """
    if has_secret(text):
        return text
    if text.startswith("~"):
        return _expand_home(text)
    if _FILE_URI.match(text):
        return local_path_of(text)
    scheme, is_uri, rest = text.partition("://")
    if not is_uri or not _SCHEME.fullmatch(scheme):
        return text
    check_scheme(text)
    return f"{scheme.lower()}://{rest}"


def check_scheme(uri: str) -> None:
    """Refuses a URI whose scheme captioner cannot use, and says what to use in its place.

    Args:
      uri: path or URI without a secret.

    Raises:
      CaptionerError: captioner does not support the scheme.
    """
    scheme, is_uri, rest = uri.partition("://")
    scheme = scheme.lower()
    if not is_uri:
        return
    if scheme in ("http", "https"):
        remedy = _remedy_for_web_address(rest)
    elif scheme in _EQUIVALENT_SCHEMES:
        remedy = f"write {_EQUIVALENT_SCHEMES[scheme]}://{rest}"
    elif scheme in _HADOOP_SCHEMES:
        remedy = "mount the file system and name the folder, or copy the files to an object store"
    elif scheme in _NETWORK_SCHEMES:
        remedy = "mount the server's folder and name it, or copy the files here"
    else:
        return
    raise CaptionerError(
        f"{uri!r} can't be used, since captioner doesn't support {scheme}; {remedy}"
    )


def _remedy_for_web_address(rest: str) -> str:
    """Returns what to write instead of a web address.

    Addresses of Amazon's and Google's stores tell which URI is meant.
    """
    host, _, path = rest.partition("/")
    host = host.lower()
    if bucket_host := re.fullmatch(r"([a-z0-9.-]+)\.s3[a-z0-9.-]*\.amazonaws\.com", host):
        return f"write s3://{bucket_host[1]}/{path}"
    if re.fullmatch(r"s3[a-z0-9.-]*\.amazonaws\.com", host):
        return f"write s3://{path}"
    if host in ("storage.googleapis.com", "storage.cloud.google.com"):
        return f"write gs://{path}"
    return (
        "download the files and name their folder, or name the bucket as s3://BUCKET/FOLDER or "
        "gs://BUCKET/FOLDER"
    )


def _expand_home(text: str) -> str:
    expanded = os.path.expanduser(text)
    if expanded == text and text.partition("/")[0] == "~":
        raise CaptionerError(
            f"{text!r} begins with the home folder, which is unknown here; write the whole path"
        )
    return expanded
