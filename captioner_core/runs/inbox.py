"""Scans an inbox: which of its subfolders are complete, and which have been captioned.

Whoever delivers images to an inbox puts each delivery into a subfolder of its own. A subfolder is
complete when it holds a marker file, or when nothing in it has changed for a while. The run id of
a subfolder is made from its name, so the manifest of that run shows that the subfolder is done.
"""

import os
import stat
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa
from pyarrow import fs as pafs

from captioner_core.errors import CaptionerError, first_line
from captioner_core.images.listing import (
    JUNK,
    Entry,
    ListingCounts,
    PathPatterns,
    SkippedEntry,
    list_images,
    skipped_file,
)
from captioner_core.io import storage
from captioner_core.io.junk import is_junk_folder
from captioner_core.options import InboxOptions
from captioner_core.tables import layout, schemas

DONE = "done"
READY = "ready"
WAITING = "waiting"

_NO_PATTERNS = PathPatterns(())


@dataclass(frozen=True)
class InboxFolder:
    """A subfolder of an inbox.

    Args:
      folder: its name.
      uri: its path or URI, for ``captioner run --images``.
      run_id: the id of its run.
      state: ``DONE``, ``READY`` or ``WAITING``.
      reason: why it is in that state, as a phrase.
    """

    folder: str
    uri: str
    run_id: str
    state: str
    reason: str


@dataclass(frozen=True)
class FolderStats:
    """The number of files below a folder, and when anything below it last changed.

    Args:
      files: number of files.
      changed_s: time of the latest change, in seconds since 1970; None if the file system does
        not know it.
    """

    files: int
    changed_s: float | None


class Inbox(Protocol):
    """An inbox on some file system.

    Its methods raise OSError if a folder cannot be read or is removed during the scan.
    """

    root: str

    def subfolders(self) -> list[str]:
        """Returns the names of the direct subfolders, in any order."""

    def has_file(self, folder: str, name: str) -> bool:
        """Returns whether a file of this name lies directly in a subfolder."""

    def stats(self, folder: str) -> FolderStats:
        """Returns the file count and the last change of a subfolder and all folders below it."""

    def counts(self, folder: str) -> ListingCounts:
        """Returns what a run over the subfolder would find, up to the first image."""


def scan_inbox(options: InboxOptions, now_s: float | None = None) -> list[InboxFolder]:
    """Returns the state of each direct subfolder of an inbox, sorted by name.

    Files, links that leave the inbox, and names that start with ``.`` or ``_`` are ignored. So is
    a subfolder that contains the runs themselves.

    Args:
      options: the inbox, the output root, and what makes a subfolder complete.
      now_s: the current time in seconds since 1970; None reads the clock.

    Raises:
      CaptionerError: the inbox or the output root cannot be read.
    """
    # Read the clock before the scan, so that no folder appears to be older than it is.
    now_s = time.time() if now_s is None else now_s
    inbox = _open_inbox(options.inbox, now_s)
    runs = _runs_folder(options, inbox)
    try:
        names = sorted(name for name in inbox.subfolders() if name[0] not in "._")
    except (OSError, pa.ArrowException) as error:
        raise CaptionerError(
            f"inbox {options.inbox!r} cannot be listed ({first_line(error)}); "
            "correct its permissions"
        ) from error
    return [
        _classify(options, inbox, name, now_s)
        for name in names
        if not runs.startswith(layout.join(inbox.root, name) + "/")
    ]


def _classify(options: InboxOptions, inbox: Inbox, name: str, now_s: float) -> InboxFolder:
    run = layout.RunLayout(options.output, layout.run_id_of(name))
    state, reason = _state(options, inbox, name, run, now_s)
    # Runs read images from plain paths, not from file: URIs.
    parent = inbox.root if options.inbox.lower().startswith("file:") else options.inbox
    return InboxFolder(name, layout.join(parent, name), run.run_id, state, reason)


def _state(
    options: InboxOptions, inbox: Inbox, name: str, run: layout.RunLayout, now_s: float
) -> tuple[str, str]:
    # This comes first, because a folder that is done need not be read, whatever it holds.
    if _is_done(run):
        return DONE, "its run is complete"
    try:
        return _unfinished_state(options, inbox, name, now_s)
    except FileNotFoundError:
        return WAITING, "something was removed during the scan"
    except (OSError, pa.ArrowException) as error:
        return WAITING, f"cannot be read ({first_line(error)})"


def _unfinished_state(
    options: InboxOptions, inbox: Inbox, name: str, now_s: float
) -> tuple[str, str]:
    if inbox.has_file(name, options.marker):
        # The marker says that the delivery is complete, so the folder is ready even without an
        # image; its run then reports that there is none.
        has_image = bool(inbox.counts(name).images)
        return READY, f"{options.marker} is there" + ("" if has_image else ", but no image")
    if options.marker_only:
        return WAITING, "no marker"
    stats = inbox.stats(name)
    if not stats.files:
        return WAITING, "empty"
    if stats.changed_s is None:
        return WAITING, "no marker, and the time of the last change is unknown"
    age_s = max(0.0, now_s - stats.changed_s)
    if age_s < 60 * options.quiet_minutes:
        return WAITING, f"changed {_format_duration(age_s)} ago"
    counts = inbox.counts(name)
    if not counts.images:
        return WAITING, f"no image, only {counts.passed_over_text()}"
    return READY, f"unchanged for {_format_duration(age_s)}"


def _is_done(run: layout.RunLayout) -> bool:
    try:
        return storage.exists(run.manifest)
    except (OSError, pa.ArrowException) as error:
        raise CaptionerError(
            f"output root {run.root!r} cannot be read ({first_line(error)}); "
            "check address and credentials"
        ) from error


class LocalInbox:
    """An inbox on a local file system.

    Args:
      path: the inbox.
      now_s: the current time in seconds since 1970.
    """

    def __init__(self, path: str, now_s: float) -> None:
        self.root = os.path.realpath(path)
        self._now_s = now_s

    def subfolders(self) -> list[str]:
        """Returns the names of the direct subfolders and of links to folders in the inbox."""
        with os.scandir(self.root) as entries:
            return [entry.name for entry in entries if self._is_folder(entry)]

    def has_file(self, folder: str, name: str) -> bool:
        """Returns whether the name is a file, or a link to a file in the inbox."""
        path = os.path.join(self.root, folder, name)
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            return False
        if stat.S_ISLNK(status.st_mode):
            return self._leads_to_file(path)
        return stat.S_ISREG(status.st_mode)

    def stats(self, folder: str) -> FolderStats:
        """Returns the file count and the last change; links to folders are not followed."""
        files = 0
        changed_s = 0.0
        # An explicit stack, because a thousand nested folders would be too deep for recursion.
        pending = [os.path.join(self.root, folder)]
        while pending:
            path = pending.pop()
            changed_s = max(changed_s, self._changed_s(os.stat(path)))
            with os.scandir(path) as entries:
                for entry in entries:
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(status.st_mode):
                        pending.append(entry.path)
                        continue
                    changed_s = max(changed_s, self._changed_s(status))
                    if entry.is_symlink() and self._leads_to_file(entry.path):
                        status = os.stat(entry.path)
                        changed_s = max(changed_s, self._changed_s(status))
                    files += stat.S_ISREG(status.st_mode)
        return FolderStats(files, changed_s)

    def counts(self, folder: str) -> ListingCounts:
        """Returns what a run over the subfolder would find, up to the first image."""
        return _count_to_first_image(list_images(os.path.join(self.root, folder)))

    def _changed_s(self, status: os.stat_result) -> float:
        """Returns when a file or folder last changed, in seconds since 1970.

        A copy that keeps the times of the original has an old mtime, but its ctime says when it
        was made. An mtime in the future comes from a wrong clock elsewhere and is ignored: with
        it, the file would never become old.
        """
        return max(status.st_ctime, status.st_mtime if status.st_mtime <= self._now_s else 0.0)

    def _is_folder(self, entry: os.DirEntry[str]) -> bool:
        if not entry.is_symlink():
            return entry.is_dir(follow_symlinks=False)
        return self._stays_inside(entry.path) and os.path.isdir(entry.path)

    def _leads_to_file(self, link: str) -> bool:
        return self._stays_inside(link) and os.path.isfile(link)

    def _stays_inside(self, link: str) -> bool:
        """Returns whether a link leads to something in the inbox; loops and broken links do not."""
        try:
            target = os.path.realpath(link, strict=True)
        except OSError:
            return False
        return target.startswith(self.root.rstrip("/") + "/")


class RemoteInbox:
    """An inbox in an object store or on another file system that pyarrow reads.

    Args:
      file_system: the file system.
      path: the inbox on it.
    """

    def __init__(self, file_system: pafs.FileSystem, path: str) -> None:
        self._file_system = file_system
        self.root = path.rstrip("/")

    def subfolders(self) -> list[str]:
        """Returns the names of the direct subfolders."""
        found = self._file_system.get_file_info(pafs.FileSelector(self.root))
        return [item.base_name for item in found if item.type == pafs.FileType.Directory]

    def has_file(self, folder: str, name: str) -> bool:
        """Returns whether a file of this name lies directly in a subfolder."""
        info = self._file_system.get_file_info(layout.join(self.root, folder, name))
        return bool(info.type == pafs.FileType.File)

    def stats(self, folder: str) -> FolderStats:
        """Returns the file count and the last change of a subfolder."""
        path = layout.join(self.root, folder)
        found = self._list(path)
        files = [item for item in found if item.type == pafs.FileType.File]
        if any(item.mtime_ns is None for item in files):
            return FolderStats(len(files), None)
        # Folders in an object store have no time of their own.
        times = [item.mtime_ns for item in (self._file_system.get_file_info(path), *found)]
        changed_ns = max((time_ns for time_ns in times if time_ns is not None), default=0)
        return FolderStats(len(files), changed_ns / 1e9)

    def counts(self, folder: str) -> ListingCounts:
        """Returns what a run over the subfolder would find, up to the first image."""
        path = layout.join(self.root, folder)
        names = (
            item.path.removeprefix(path).strip("/")
            for item in self._list(path)
            if item.type == pafs.FileType.File
        )
        return _count_to_first_image(map(_to_entry, names))

    def _list(self, path: str) -> list[pafs.FileInfo]:
        found: list[pafs.FileInfo] = self._file_system.get_file_info(
            pafs.FileSelector(path, recursive=True)
        )
        return found


def _to_entry(name: str) -> Entry:
    """Returns a remote file as a listing of its folder would find it.

    Args:
      name: the file's path below the subfolder.
    """
    is_junk = any(is_junk_folder(folder) for folder in name.split("/")[:-1])
    reason = JUNK if is_junk else skipped_file(name, _NO_PATTERNS)
    return SkippedEntry(name, reason) if reason else schemas.ImageRef(name, name)


def _count_to_first_image(entries: Iterable[Entry]) -> ListingCounts:
    counts = ListingCounts()
    for entry in entries:
        counts = counts.with_entry(entry)
        if counts.images:
            break
    return counts


def _open_inbox(uri: str, now_s: float) -> Inbox:
    try:
        file_system, path = storage.resolve(uri)
        is_folder = file_system.get_file_info(path).type == pafs.FileType.Directory
    except (OSError, pa.ArrowException) as error:
        raise CaptionerError(
            f"inbox {uri!r} cannot be read ({first_line(error)}); check address and credentials"
        ) from error
    if not is_folder:
        raise CaptionerError(f"inbox {uri!r} is not a folder; name one with --inbox")
    is_local = isinstance(file_system, pafs.LocalFileSystem)
    return LocalInbox(path, now_s) if is_local else RemoteInbox(file_system, path)


def _runs_folder(options: InboxOptions, inbox: Inbox) -> str:
    """Returns the path of the folder of all runs on the inbox's file system, ending in ``/``.

    The result is empty if the runs are on another file system.
    """
    try:
        file_system, path = storage.resolve(layout.join(options.output, "runs"))
    except (OSError, pa.ArrowException) as error:
        raise CaptionerError(
            f"output root {options.output!r} cannot be read ({first_line(error)}); "
            "check the address"
        ) from error
    is_local = isinstance(file_system, pafs.LocalFileSystem)
    if is_local != isinstance(inbox, LocalInbox):
        return ""
    return (os.path.realpath(path) if is_local else path) + "/"


def _format_duration(seconds: float) -> str:
    for unit, length_s in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length_s:
            return f"{seconds / length_s:.0f} {unit}"
    return f"{seconds:.0f} s"
