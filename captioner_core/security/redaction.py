"""Text of strangers and of command lines, made fit to be shown on a terminal, in a log or on a page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

SECRET_NAME = re.compile(
    r"secret|token|passw|pwd|key|credential|auth|(?:^|[_-])sig(?:nature)?$", re.IGNORECASE
)
"""Finds names of options and parameters whose values are not for logs; rather one too many."""

# Control characters, lone surrogates, and the invisible ones that reorder, hide or end text.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\uffff\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)
_SHORT_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def escape_control_chars(text: str) -> str:
    r"""Text with what can't be seen, or reorders what can, written as escapes.

    So a file's name can neither break its line, nor recolour or retitle a terminal, nor look like another.

    >>> escape_control_chars("a\nb\u202egpj.exe")
    'a\\nb\\u202egpj.exe'
    """
    return _UNSEEN.sub(lambda found: _SHORT_ESCAPES.get(found[0]) or _escape(ord(found[0])), text)


def _escape(code: int) -> str:
    return (
        f"\\x{code:02x}"
        if code < 0x100
        else f"\\u{code:04x}"
        if code < 0x10000
        else f"\\U{code:08x}"
    )


def redact_arguments(arguments: Sequence[str]) -> str:
    """A command line on one line, without values of options whose names speak of secrets, and of URIs that hold some.

    >>> redact_arguments(["--s3_secret_access_key=abc", "--token", "abc", "--runner=FlinkRunner"])
    '--s3_secret_access_key=*** --token *** --runner=FlinkRunner'
    """
    return escape_control_chars(" ".join(_masked(arguments)))


def _masked(arguments: Sequence[str]) -> Iterator[str]:
    value_is_secret = False
    for argument in arguments:
        name, has_value, value = (
            argument.partition("=") if argument.startswith("-") else ("", "", argument)
        )
        if value_is_secret and not argument.startswith("--"):
            yield "***"
        elif has_value:
            yield f"{name}=***" if SECRET_NAME.search(name) else f"{name}={without_secret(value)}"
        else:
            yield without_secret(argument)
        value_is_secret = bool(name) and not has_value and SECRET_NAME.search(name) is not None


def has_secret(uri: str) -> bool:
    """Whether a URI holds a password, a key or a signature; a path never does."""
    scheme, is_uri, rest = uri.partition("://")
    if not is_uri:
        return False
    place, *query = re.split(r"[?#]", rest, maxsplit=1)
    user, at, _ = place.partition("/")[0].rpartition("@")
    # Azure and HDFS name a container and a user so, which are no secrets; web servers take tokens in that place
    if (
        ":" in user
        or (at and scheme.lower() in ("http", "https"))
        or (not at and _has_bad_port(place))
    ):
        return True
    return any(
        SECRET_NAME.search(part.partition("=")[0]) for part in re.split("[&;]", "".join(query))
    )


def without_secret(uri: str) -> str:
    """A URI without its password, key or signature; any other text as it is."""
    if not has_secret(uri):
        return uri
    scheme, _, rest = uri.partition("://")
    place, *query = re.split(r"[?#]", rest, maxsplit=1)
    if "@" in place:
        place = "***@" + place.rpartition("@")[2]
    elif _has_bad_port(place):
        place = "***"
    return f"{scheme}://{place}" + ("?***" if query else "")


def _has_bad_port(place: str) -> bool:
    """Whether a port is none: a key that holds a slash makes what stands before it look like host and port."""
    host = re.sub(r"^\[[0-9A-Fa-f:.]*\]", "", place.partition("/")[0])
    return ":" in host and not host.partition(":")[2].isdigit()
