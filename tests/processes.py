"""What tests of running programs share."""

from __future__ import annotations

import subprocess
from typing import AnyStr

from captioner_cli.main import main


def read_line(process: subprocess.Popen[AnyStr]) -> AnyStr:
    """Waits for the next line that a program prints and returns it; its stdout must be a pipe."""
    assert process.stdout is not None, "the program's stdout must be a pipe"
    return process.stdout.readline()


def exit_code(command: list[str]) -> int:
    """Returns the exit code of a command line in this process, whoever refuses it."""
    try:
        code: object = main(command)
    except SystemExit as end:
        code = end.code
    assert isinstance(code, int), code
    return code
