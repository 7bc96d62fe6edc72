"""Snapshots of folders before and after a command, which show that no other file changed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def snapshot(folder: Path, but: Iterable[Path] = ()) -> dict[str, bytes | str]:
    """Returns the bytes of every file and the target of every link below a folder.

    Args:
      folder: the folder.
      but: paths that are left out.
    """
    left_out = set(but)
    seen: dict[str, bytes | str] = {}
    for below, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(below, name)
            if path in left_out:
                continue
            if path.is_symlink():
                seen[str(path)] = f"link to {os.readlink(path)}"
            elif path.is_file():
                seen[str(path)] = path.read_bytes()
        folders[:] = [name for name in folders if Path(below, name) not in left_out]
    return seen


def assert_unchanged(before: dict[str, bytes | str], after: dict[str, bytes | str]) -> None:
    """Every file and link that was there is there, byte for byte; new ones are allowed."""
    changed = [path for path, content in before.items() if after.get(path) != content]
    assert changed == []
