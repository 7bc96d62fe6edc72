"""Decodes text files of captions: UTF-8 or UTF-16, with or without byte-order marks."""

import codecs
import re

from captioner_core.errors import CaptionerError

_MARKS_AT_LINE_STARTS = re.compile("(^|[\r\n])\ufeff+")


def decode_source(data: bytes, what: str) -> str:
    """Returns the text of a file without byte-order marks.

    Marks at the start of any line are removed, because concatenated files have some in the middle.

    Args:
      data: content of the file.
      what: name of the file, for error messages.

    Raises:
      CaptionerError: the data is neither UTF-8 nor UTF-16 with a byte-order mark.
    """
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise CaptionerError(
            f"{what}, line {line}: it is not text in UTF-8 ({error.reason}); save the file as UTF-8"
        ) from error
    return _MARKS_AT_LINE_STARTS.sub(r"\1", text)


def split_lines(text: str) -> list[str]:
    """Returns the lines of a text, split at line feeds, or at carriage returns if it has no others.

    ``str.splitlines`` would also split a caption at a stray carriage return, at a form feed or at
    one of Unicode's line separators.

    >>> split_lines("a dog\\rruns\\na cat")
    ['a dog\\rruns', 'a cat']
    """
    return text.split("\n" if "\n" in text else "\r")
