"""The exceptions that reach a user, and the exit code that each becomes."""

from __future__ import annotations


class CaptionerError(ValueError):
    """Bad usage or bad input: one line with the value, the rule and the remedy; exit code 2."""

    exit_code = 2


class CheckFailed(CaptionerError):
    """The work was done and a check on it failed: a breach, too many failures; exit code 1."""

    exit_code = 1


class JobFailed(CaptionerError):
    """A cluster gave a job up, or a worker died; nothing was committed, and another try may go well; exit code 1."""

    exit_code = 1


IMAGE_ERRORS = {
    "unreadable": "the file or folder can't be read, or is gone since it was listed",
    "changed": "the file changed while it was read",
    "empty_file": "it holds no bytes",
    "too_large": "it holds more bytes than --max-bytes",
    "unsupported_format": "its content is no image of a supported format",
    "too_many_pixels": "it has more pixels than --max-pixels",
    "truncated": "it ends too early",
    "decode_error": "its pixels can't be decoded",
    "timed_out": "decoding took longer than --max-seconds",
    "too_much_memory": "decoding needs more memory than an image may take",
    "decoder_crashed": "its decoder crashed",
}
"""What ``error_type`` may say in a table of failures."""


class ImageError(ValueError):
    """One image can't be used; it becomes one row of the failures table.

    Args:
      error_type: the reason, one of ``IMAGE_ERRORS``.
      message: a sentence for a person, without the file's name (the row has it).
    """

    def __init__(self, error_type: str, message: str) -> None:
        super().__init__(message)
        self.error_type = error_type
        self.message = message

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str]]:
        return type(self), (self.error_type, self.message)  # crosses process borders whole
