"""Compares folders before and after a command, to show that no other file has changed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def snapshot(folder: Path, but: Iterable[Path] = ()) -> dict[str, bytes | str]:
    """Returns the bytes of every file and the target of every link below a folder, by path.

    Args:
      folder: the folder.
      but: paths that are left out.
    """
    excluded = set(but)
    contents: dict[str, bytes | str] = {}
    for below, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(below, name)
            if path in excluded:
                continue
            if path.is_symlink():
                contents[str(path)] = f"link to {os.readlink(path)}"
            elif path.is_file():
                contents[str(path)] = path.read_bytes()
        folders[:] = [name for name in folders if Path(below, name) not in excluded]
    return contents


def assert_unchanged(before: dict[str, bytes | str], after: dict[str, bytes | str]) -> None:
    """Asserts that every earlier file and link still exists, byte for byte; new ones may exist."""
    changed = [path for path, content in before.items() if after.get(path) != content]
    assert changed == []
