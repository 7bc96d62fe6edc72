"""The exceptions that reach a user, and the exit code that each of them causes."""

from __future__ import annotations


class CaptionerError(ValueError):
    """Bad usage or bad input, which the user must change; exit code 2.

    The message is one line with the value, the rule that it breaks, and the remedy.
    """

    exit_code = 2


class CheckFailed(CaptionerError):
    """The work was done, but a check of its result failed; exit code 1.

    For example, more images failed than ``--max-failures`` allows.
    """

    exit_code = 1


class JobFailed(CaptionerError):
    """A cluster gave a job up, or a worker died; exit code 1.

    Nothing was committed, and another try may succeed.
    """

    exit_code = 1


IMAGE_ERRORS = {
    "unreadable": "the file or folder can't be read, or no longer exists",
    "changed": "the file changed while it was read",
    "empty_file": "the file is empty",
    "too_large": "the file is larger than --max-bytes",
    "unsupported_format": "the content is not an image of a supported format",
    "too_many_pixels": "the image has more pixels than --max-pixels",
    "truncated": "the file ends too early",
    "decode_error": "the pixels can't be decoded",
    "timed_out": "decoding took longer than --max-seconds",
    "too_much_memory": "decoding needs more memory than an image may use",
    "decoder_crashed": "the decoder crashed",
}
"""Values of the column ``error_type`` in a table of failures, and what they mean."""


class ImageError(ValueError):
    """An image cannot be used; it becomes one row of the failures table.

    Args:
      error_type: reason, one of ``IMAGE_ERRORS``.
      message: sentence for the user, without the name of the file (which the row has).
    """

    def __init__(self, error_type: str, message: str) -> None:
        super().__init__(message)
        self.error_type = error_type
        self.message = message

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str]]:
        # Without this, pickle would call __init__ with the message alone.
        return type(self), (self.error_type, self.message)


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message, or the name of its class if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]
