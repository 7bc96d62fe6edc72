"""The exceptions that reach a user, and the exit code that each becomes."""

from __future__ import annotations


class CaptionerError(ValueError):
    """Bad usage or bad input: one line with the value, the rule and the remedy; exit code 2."""

    exit_code = 2


class CheckFailed(CaptionerError):
    """The work was done and a check on it failed: a breach, too many failures; exit code 1."""

    exit_code = 1


class ImageError(ValueError):
    """One image can't be used; it becomes one row of the failures table.

    Args:
      error_type: the reason as a stable word in snake_case, such as ``empty_file``.
      message: a sentence for a person, without the file's name (the row has it).
    """

    def __init__(self, error_type: str, message: str) -> None:
        super().__init__(message)
        self.error_type = error_type
        self.message = message

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str]]:
        return type(self), (self.error_type, self.message)  # crosses process borders whole
