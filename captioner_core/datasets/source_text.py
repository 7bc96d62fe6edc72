"""Text files of captions as people save them: with byte-order marks, in UTF-8 or in UTF-16."""

from __future__ import annotations

import codecs
import re

from captioner_core.errors import CaptionerError

_MARKS_AT_LINE_STARTS = re.compile("(^|[\r\n])\ufeff+")


def decode_source(data: bytes, what: str) -> str:
    """Returns the text of a file without byte-order marks.

    A mark that a line begins with goes too: files that were joined have one in the middle.

    Args:
      data: the file's bytes.
      what: the file, for messages.

    Raises:
      CaptionerError: it is neither UTF-8 nor UTF-16 with its mark.
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
    """Returns the lines of a file, without their ends: line feeds, or carriage returns where there are no others.

    ``str.splitlines`` would also cut a caption at a stray carriage return, a form feed or one of
    Unicode's separators.
    """
    return text.split("\n" if "\n" in text else "\r")
