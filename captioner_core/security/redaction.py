"""Making text safe to show on a terminal, in a log or on a page.

Secrets become ``***``, and characters that cannot be seen become escapes.
"""

import re
from collections.abc import Iterator, Sequence

SECRET_NAME = re.compile(
    r"secret|token|passw|pwd|key|credential|auth|(?:^|[_-])sig(?:nature)?$", re.IGNORECASE
)
"""Matches names of options and parameters whose values may be secrets; a few match needlessly."""

# Control characters, lone surrogates, and invisible characters that reorder, hide or end text.
_INVISIBLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\uffff\ud800-\udfff\U000e0000-\U000e007f]"
)
_SHORT_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def escape_control_chars(text: str) -> str:
    r"""Returns a text with escapes for characters that are invisible or reorder the visible ones.

    So the name of a file cannot break its line, change the colours or the title of a terminal, or
    look like another name.

    >>> escape_control_chars("a\nb\u202egpj.exe")
    'a\\nb\\u202egpj.exe'
    """
    return _INVISIBLE.sub(
        lambda match: _SHORT_ESCAPES.get(match[0]) or _escape(ord(match[0])), text
    )


def _escape(code: int) -> str:
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def redact_arguments(arguments: Sequence[str]) -> str:
    """Returns a command line, on one line, with its secrets replaced.

    Secrets are values of options whose names match ``SECRET_NAME``, and those within URIs.

    >>> redact_arguments(["--s3_secret_access_key=abc", "--token", "abc", "--runner=FlinkRunner"])
    '--s3_secret_access_key=*** --token *** --runner=FlinkRunner'
    """
    return escape_control_chars(" ".join(_redact_each(arguments)))


def _redact_each(arguments: Sequence[str]) -> Iterator[str]:
    is_value_secret = False
    for argument in arguments:
        is_option = argument.startswith("-")
        name, has_value, value = argument.partition("=") if is_option else ("", "", argument)
        if is_value_secret and not argument.startswith("--"):
            yield "***"
        elif has_value:
            yield f"{name}=***" if SECRET_NAME.search(name) else f"{name}={redact_uri(value)}"
        else:
            yield redact_uri(argument)
        is_value_secret = bool(name) and not has_value and SECRET_NAME.search(name) is not None


def has_secret(uri: str) -> bool:
    """Returns whether a URI contains a password, a key or a signature; a path never does."""
    scheme, is_uri, rest = uri.partition("://")
    if not is_uri:
        return False
    location, *query = re.split(r"[?#]", rest, maxsplit=1)
    user, at, _ = location.partition("/")[0].rpartition("@")
    # Before the "@", Azure names a container and HDFS a user, and these are not secrets. Web
    # servers accept tokens there.
    if (
        ":" in user
        or (at and scheme.lower() in ("http", "https"))
        or (not at and _has_invalid_port(location))
    ):
        return True
    parameters = re.split("[&;]", "".join(query))
    return any(SECRET_NAME.search(parameter.partition("=")[0]) for parameter in parameters)


def redact_uri(uri: str) -> str:
    """Returns a URI without its password, key or signature, and any other text unchanged."""
    if not has_secret(uri):
        return uri
    scheme, _, rest = uri.partition("://")
    location, *query = re.split(r"[?#]", rest, maxsplit=1)
    if "@" in location:
        location = "***@" + location.rpartition("@")[2]
    elif _has_invalid_port(location):
        location = "***"
    return f"{scheme}://{location}" + ("?***" if query else "")


def _has_invalid_port(location: str) -> bool:
    """Returns whether the port of a URI is not a number.

    A key that contains a slash causes this: the text before the slash then looks like host and
    port.
    """
    host = re.sub(r"^\[[0-9A-Fa-f:.]*\]", "", location.partition("/")[0])
    return ":" in host and not host.partition(":")[2].isdigit()
