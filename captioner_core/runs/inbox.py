"""An inbox: which of its subfolders are complete, and which have been captioned.

Whoever delivers a folder says that it is complete with a marker file, or stops changing it. The
run of a folder has a name made of the folder's, so its manifest tells that the folder is done.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa
from pyarrow import fs as pafs

from captioner_core.errors import CaptionerError
from captioner_core.images.junk import is_junk_folder
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
from captioner_core.options import InboxOptions
from captioner_core.tables import layout
from captioner_core.tables.layout import RunLayout
from captioner_core.tables.schemas import ImageRef

DONE, READY, WAITING = "done", "ready", "waiting"


@dataclass(frozen=True)
class InboxFolder:
    """A subfolder of an inbox.

    Args:
      folder: its name.
      uri: where it is, as ``captioner run --images`` takes it.
      run_id: of its run.
      state: ``done``, ``ready`` or ``waiting``.
      reason: why, as a phrase.
    """

    folder: str
    uri: str
    run_id: str
    state: str
    reason: str


@dataclass(frozen=True)
class _Content:
    """What lies below a folder.

    Args:
      files: their number.
      changed_s: the latest change, in seconds since 1970; None where the file system doesn't know.
    """

    files: int
    changed_s: float | None


class _Inbox(Protocol):
    """Where subfolders lie; what is asked of one raises OSError where it can't be read or vanishes meanwhile."""

    root: str

    def subfolders(self) -> list[str]: ...

    def has_file(self, folder: str, name: str) -> bool: ...

    def content(self, folder: str) -> _Content: ...

    def counts(self, folder: str) -> ListingCounts:
        """Returns what a run over the folder would find, up to the first image."""


def scan_inbox(options: InboxOptions, now_s: float | None = None) -> list[InboxFolder]:
    """The state of each direct subfolder, by name.

    Files, links that leave the inbox, and names that start with ``.`` or ``_`` are passed over, and
    so is a folder that holds the runs themselves.

    Args:
      options: where to look, and what makes a folder complete.
      now_s: seconds since 1970; the clock's where None.

    Raises:
      CaptionerError: the inbox or the output root can't be looked at.
    """
    now_s = (
        time.time() if now_s is None else now_s
    )  # before anything is looked at, so that no age is too high
    inbox = _open(options.inbox, now_s)
    runs = _runs_within(options, inbox)
    try:
        names = sorted(name for name in inbox.subfolders() if name[0] not in "._")
    except (OSError, pa.ArrowException) as error:
        raise CaptionerError(
            f"inbox {options.inbox!r} can't be listed ({storage.first_line(error)}); mend its permissions"
        ) from error
    wanted = [name for name in names if not runs.startswith(layout.join(inbox.root, name) + "/")]
    return [_judged(options, inbox, name, now_s) for name in wanted]


def _judged(options: InboxOptions, inbox: _Inbox, name: str, now_s: float) -> InboxFolder:
    run = RunLayout(options.output, layout.run_id_of(name))
    if _is_done(run):  # asked first: what is in a folder that is done is nobody's concern
        state, reason = DONE, "its run is complete"
    else:
        try:
            state, reason = _state(options, inbox, name, now_s)
        except FileNotFoundError:
            state, reason = WAITING, "something vanished while it was looked at"
        except (OSError, pa.ArrowException) as error:
            state, reason = WAITING, f"can't be read ({storage.first_line(error)})"
    base = (
        inbox.root if options.inbox.lower().startswith("file:") else options.inbox
    )  # images are read from plain paths
    return InboxFolder(name, layout.join(base, name), run.run_id, state, reason)


def _state(options: InboxOptions, inbox: _Inbox, name: str, now_s: float) -> tuple[str, str]:
    if inbox.has_file(name, options.marker):
        # whoever delivered the folder says that nothing more will come; its run will say that there is no image
        return READY, f"{options.marker} is there" + (
            "" if inbox.counts(name).images else ", but no image"
        )
    if options.marker_only:
        return WAITING, "no marker"
    content = inbox.content(name)
    if not content.files:
        return WAITING, "empty"
    if content.changed_s is None:
        return WAITING, "no marker, and nobody knows when it changed"
    age_s = max(0.0, now_s - content.changed_s)
    if age_s < 60 * options.quiet_minutes:
        return WAITING, f"changed {_duration(age_s)} ago"
    counts = inbox.counts(name)
    if not counts.images:
        return WAITING, f"no image, only {counts.passed_over_text()}"
    return READY, f"unchanged for {_duration(age_s)}"


def _is_done(run: RunLayout) -> bool:
    try:
        return storage.exists(run.manifest)
    except (OSError, pa.ArrowException) as error:
        raise CaptionerError(
            f"output root {run.root!r} can't be read ({storage.first_line(error)}); check address and credentials"
        ) from error


class _LocalInbox:
    def __init__(self, path: str, now_s: float) -> None:
        self.root, self._now_s = os.path.realpath(path), now_s

    def subfolders(self) -> list[str]:
        with os.scandir(self.root) as entries:
            return [entry.name for entry in entries if self._is_folder(entry)]

    def has_file(self, folder: str, name: str) -> bool:
        path = os.path.join(self.root, folder, name)
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            return False
        return stat.S_ISREG(status.st_mode) or (
            stat.S_ISLNK(status.st_mode) and self._leads_to_file(path)
        )

    def content(self, folder: str) -> _Content:
        files, changed_s = 0, 0.0
        # a stack of its own: a thousand folders within each other would be too deep for recursion
        to_read = [os.path.join(self.root, folder)]
        while to_read:
            path = to_read.pop()
            changed_s = max(changed_s, self._changed_s(os.stat(path)))
            with os.scandir(path) as entries:
                for entry in entries:
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(status.st_mode):
                        to_read.append(entry.path)
                        continue
                    changed_s = max(changed_s, self._changed_s(status))
                    if entry.is_symlink() and self._leads_to_file(entry.path):
                        status = os.stat(entry.path)
                        changed_s = max(changed_s, self._changed_s(status))
                    files += stat.S_ISREG(status.st_mode)
        return _Content(files, changed_s)

    def counts(self, folder: str) -> ListingCounts:
        return _counts_to_first_image(list_images(os.path.join(self.root, folder)))

    def _changed_s(self, status: os.stat_result) -> float:
        """When a file or folder last changed.

        Copies that keep the time of the original have an old mtime; their ctime says when they came.
        An mtime in the future is likewise somebody else's, and would never become old.
        """
        return max(status.st_ctime, status.st_mtime if status.st_mtime <= self._now_s else 0.0)

    def _is_folder(self, entry: os.DirEntry[str]) -> bool:
        if not entry.is_symlink():
            return entry.is_dir(follow_symlinks=False)
        return self._stays(entry.path) and os.path.isdir(entry.path)

    def _leads_to_file(self, link: str) -> bool:
        return self._stays(link) and os.path.isfile(link)

    def _stays(self, link: str) -> bool:
        """Whether a link leads to something below the inbox; loops and dangling links don't."""
        try:
            target = os.path.realpath(link, strict=True)
        except OSError:
            return False
        return target.startswith(self.root.rstrip("/") + "/")


class _RemoteInbox:
    def __init__(self, file_system: pafs.FileSystem, path: str) -> None:
        self._file_system, self.root = file_system, path.rstrip("/")

    def subfolders(self) -> list[str]:
        found = self._file_system.get_file_info(pafs.FileSelector(self.root))
        return [item.base_name for item in found if item.type == pafs.FileType.Directory]

    def has_file(self, folder: str, name: str) -> bool:
        info = self._file_system.get_file_info(layout.join(self.root, folder, name))
        return bool(info.type == pafs.FileType.File)

    def content(self, folder: str) -> _Content:
        path = layout.join(self.root, folder)
        found = self._file_system.get_file_info(pafs.FileSelector(path, recursive=True))
        is_file = [item.type == pafs.FileType.File for item in found]
        if any(one and item.mtime_ns is None for one, item in zip(is_file, found, strict=True)):
            return _Content(sum(is_file), None)
        # an object store's folders have no time of their own
        times = [
            item.mtime_ns
            for item in [self._file_system.get_file_info(path), *found]
            if item.mtime_ns is not None
        ]
        return _Content(sum(is_file), max(times, default=0) / 1e9)

    def counts(self, folder: str) -> ListingCounts:
        path, patterns = layout.join(self.root, folder), PathPatterns(())
        found = self._file_system.get_file_info(pafs.FileSelector(path, recursive=True))
        names = (
            item.path.removeprefix(path).strip("/")
            for item in found
            if item.type == pafs.FileType.File
        )
        return _counts_to_first_image(_entry_of(name, patterns) for name in names)


def _entry_of(name: str, patterns: PathPatterns) -> Entry:
    """Returns a file elsewhere as a listing of its folder would find it."""
    folders = name.split("/")[:-1]
    reason = (
        JUNK if any(is_junk_folder(folder) for folder in folders) else skipped_file(name, patterns)
    )
    return SkippedEntry(name, reason) if reason else ImageRef(name, name)


def _counts_to_first_image(entries: Iterable[Entry]) -> ListingCounts:
    counts = ListingCounts()
    for entry in entries:
        counts = counts.counting(entry)
        if counts.images:
            break
    return counts


def _open(uri: str, now_s: float) -> _Inbox:
    try:
        file_system, path = storage.resolve(uri)
        is_folder = file_system.get_file_info(path).type == pafs.FileType.Directory
    except (OSError, pa.ArrowException) as error:
        raise CaptionerError(
            f"inbox {uri!r} can't be read ({storage.first_line(error)}); check address and credentials"
        ) from error
    if not is_folder:
        raise CaptionerError(f"inbox {uri!r} is not a folder; name one with --inbox")
    is_local = isinstance(file_system, pafs.LocalFileSystem)
    return _LocalInbox(path, now_s) if is_local else _RemoteInbox(file_system, path)


def _runs_within(options: InboxOptions, inbox: _Inbox) -> str:
    """The folder of all runs with ``/`` at its end, on the inbox's own file system; empty where it is on another."""
    try:
        file_system, path = storage.resolve(layout.join(options.output, "runs"))
    except (OSError, pa.ArrowException) as error:
        raise CaptionerError(
            f"output root {options.output!r} can't be read ({storage.first_line(error)}); check the address"
        ) from error
    is_local = isinstance(file_system, pafs.LocalFileSystem)
    if is_local != isinstance(inbox, _LocalInbox):
        return ""
    return (os.path.realpath(path) if is_local else path) + "/"


def _duration(seconds: float) -> str:
    for unit, length_s in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length_s:
            return f"{seconds / length_s:.0f} {unit}"
    return f"{seconds:.0f} s"
