"""Runs captioner's programs in processes of their own, in environments that tests choose."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
CAPTIONER = [sys.executable, "-P", "-m", "captioner_cli"]
UNSEEN_BY_ROOT = 54_321
"""The id of a user that has no entry in the list of users and no rights."""


@dataclass(frozen=True)
class Ended:
    """How a program ended.

    Args:
      code: its exit code, or minus the signal that killed it.
      out: what it wrote to stdout.
      err: what it wrote to stderr.
    """

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """The lines that it wrote to stderr."""
        return self.err.splitlines()


def environment(**changes: str | None) -> dict[str, str]:
    """Returns this process's environment with changes; a variable that is None is left out."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **changes}
    return {name: value for name, value in variables.items() if value is not None}


def call(command, prefix=(), timeout=300, **changes) -> Ended:
    """Runs a command to its end.

    Args:
      command: the program and its arguments.
      prefix: a command that runs the program, such as ``as_nobody()``.
      timeout: the time limit in seconds.
      changes: environment variables, as ``environment`` takes them.
    """
    done = subprocess.run(
        [*map(str, (*prefix, *command))],
        capture_output=True,
        text=True,
        errors="replace",
        env=environment(**changes),
        timeout=timeout,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def captioner(*arguments, prefix=(), **changes) -> Ended:
    """Runs ``captioner`` with these arguments to its end."""
    return call([*CAPTIONER, *arguments], prefix, **changes)


def in_shell(script: str, *arguments, **changes) -> Ended:
    """Runs a shell script in which ``"$@"`` is ``captioner`` with these arguments."""
    return call(["sh", "-c", script, "sh", *CAPTIONER, *arguments], **changes)


def python(code: str, *arguments, **changes) -> Ended:
    """Runs Python code with these arguments to its end."""
    return call([sys.executable, "-P", "-c", code, *arguments], **changes)


def as_nobody() -> list[str]:
    """Returns a prefix that runs a command as a user who can read everything.

    The user can write nothing that belongs to root.
    """
    # Python itself may be installed in root's home.
    capability = "+dac_read_search"
    user = f"--reuid={UNSEEN_BY_ROOT}", f"--regid={UNSEEN_BY_ROOT}"
    return [
        "setpriv",
        *user,
        "--clear-groups",
        f"--inh-caps={capability}",
        f"--ambient-caps={capability}",
    ]
