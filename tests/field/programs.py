"""Programs of captioner's in processes of their own, in environments that tests choose."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
CAPTIONER = [sys.executable, "-P", "-m", "captioner_cli"]
UNSEEN_BY_ROOT = 54_321
"""A user without an entry in the list of users and without rights, whom root can become."""


@dataclass(frozen=True)
class Ended:
    """How a program ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.err.splitlines()


def environment(**changes: str | None) -> dict[str, str]:
    """This process' environment, changed; what is None is taken out."""
    made = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **changes}
    return {name: value for name, value in made.items() if value is not None}


def call(command, prefix=(), timeout=300, **changes) -> Ended:
    """Runs a command to its end."""
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
    return call([*CAPTIONER, *arguments], prefix, **changes)


def in_shell(script: str, *arguments, **changes) -> Ended:
    """Runs ``captioner`` with arguments as the ``"$@"`` of a shell's script."""
    return call(["sh", "-c", script, "sh", *CAPTIONER, *arguments], **changes)


def python(code: str, *arguments, **changes) -> Ended:
    return call([sys.executable, "-P", "-c", code, *arguments], **changes)


def as_nobody() -> list[str]:
    """What runs a command as a user who can read everything and write nothing of root's."""
    capability = "+dac_read_search"  # Python may lie in root's own home
    user = f"--reuid={UNSEEN_BY_ROOT}", f"--regid={UNSEEN_BY_ROOT}"
    return [
        "setpriv",
        *user,
        "--clear-groups",
        f"--inh-caps={capability}",
        f"--ambient-caps={capability}",
    ]
