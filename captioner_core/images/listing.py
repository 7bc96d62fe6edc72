"""Lists the images below a local folder, and reads their bytes.

A listing comes in a fixed order and holds the entries of only one folder at each level in memory.
It follows no link out of the folder, and it walks into no linked folder at all: what such a link
shows inside the folder is listed under its own name anyway, and no loop can occur.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import os
import re
import stat
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote_from_bytes

from captioner_core.errors import CaptionerError, ImageError
from captioner_core.images import decoding, image_ids
from captioner_core.io import outputs
from captioner_core.io.junk import is_junk_file, is_junk_folder
from captioner_core.security.uris import local_path_of
from captioner_core.tables.schemas import LISTING, FailureRow, ImageRef

# The reasons why a listing skips an entry:
OTHER = "other"  # its suffix is not that of an image
LINK = "link"  # a link that is not followed
SPECIAL = "special"  # a pipe or a device
JUNK = "junk"  # hidden, or a file or folder of the operating system
EXCLUDED = "excluded"  # matched by --exclude
OWN = "own"  # made by captioner itself

_PHRASES = {
    LINK: "link{s} not followed",
    SPECIAL: "pipe{s} or device{s}",
    JUNK: "hidden folder{s} and system file{s}",
    EXCLUDED: "left out by --exclude",
    OWN: "of captioner's own",
}
_COUNTER_NAMES = {
    LINK: "links",
    SPECIAL: "special_files",
    JUNK: "junk",
    EXCLUDED: "excluded",
    OWN: "own",
}
PASSED_OVER_BY_SUFFIX: Final = "passed_over_by_suffix"
"""Key of a run's manifest that holds the number of files skipped for their suffix, by suffix."""

DATASET_FOLDER = "dataset"
IMAGE_FOLDER = "folder of images"
"""Kinds of captioner's own folders, as their markers state them, that a listing does not skip."""

_NO_SUFFIX = "no suffix"
_OTHER_SUFFIXES = "other"
_SUFFIX = re.compile(r"\.\w{1,12}")
_MAX_SUFFIXES_COUNTED = 200
_MAX_SUFFIXES_IN_MANIFEST = 20
_MAX_SUFFIXES_IN_TEXT = 5

_OWN_MARKER = os.fsencode(outputs.MARKER)
_OWN_MARKER_BYTES = 512
_OWN_PICTURE_BYTES = 200


@dataclasses.dataclass(frozen=True, slots=True)
class SkippedEntry:
    """A file, link or folder that a listing skips.

    Args:
      image_id: the entry's path below the images folder, in the form of an image id.
      reason: ``OTHER``, ``LINK``, ``SPECIAL``, ``JUNK``, ``EXCLUDED`` or ``OWN``.
    """

    image_id: str
    reason: str


Entry = ImageRef | SkippedEntry | FailureRow
"""One result of a listing: an image, a skipped entry, or a folder that can't be read."""


@dataclasses.dataclass(frozen=True)
class ListingCounts:
    """The number of images and of skipped entries in a listing.

    Args:
      images: number of images. A folder that can't be read counts as one image, which failed.
      passed: number of skipped entries by reason. A skipped folder counts as one entry.
      suffixes: number of files skipped for their suffix, by suffix in lower case.
    """

    images: int = 0
    passed: Mapping[str, int] = dataclasses.field(default_factory=dict)
    suffixes: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def passed_over(self) -> int:
        """Number of all skipped entries."""
        return sum(self.passed.values())

    @property
    def is_empty(self) -> bool:
        """Whether the listing had no entry, not even a skipped one."""
        return not self.images and not self.passed

    def with_entry(self, entry: Entry) -> ListingCounts:
        """Returns these counts increased by one entry."""
        if not isinstance(entry, SkippedEntry):
            return dataclasses.replace(self, images=self.images + 1)
        suffixes = self.suffixes
        if entry.reason == OTHER:
            suffix = _suffix_of(entry.image_id)
            if suffix not in suffixes and len(suffixes) >= _MAX_SUFFIXES_COUNTED:
                suffix = _OTHER_SUFFIXES
            suffixes = {**suffixes, suffix: suffixes.get(suffix, 0) + 1}
        passed = {**self.passed, entry.reason: self.passed.get(entry.reason, 0) + 1}
        return dataclasses.replace(self, passed=passed, suffixes=suffixes)

    def as_manifest(self) -> dict[str, int]:
        """Returns the counters of the listing for a run's manifest."""
        return {
            "images_found": self.images,
            "files_passed_over": self.passed_over,
            **{
                f"{name}_passed_over": self.passed.get(reason, 0)
                for reason, name in _COUNTER_NAMES.items()
            },
        }

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> ListingCounts:
        """Returns the counts in a run's manifest; counts that an earlier version lacks are 0."""
        counts = manifest.get("counts", {})
        suffixes = manifest.get(PASSED_OVER_BY_SUFFIX, {})
        passed = {
            reason: counts.get(f"{name}_passed_over", 0) for reason, name in _COUNTER_NAMES.items()
        }
        passed[OTHER] = sum(suffixes.values())
        passed = {reason: count for reason, count in passed.items() if count}
        return cls(counts.get("images_found", 0), passed, suffixes)

    def by_suffix(self) -> dict[str, int]:
        """Returns the number of files skipped for their suffix, by suffix, the most frequent first.

        Only the 20 most frequent suffixes have an entry; ``other`` counts the files with the rest.
        """
        ranked = sorted(
            (item for item in self.suffixes.items() if item[0] != _OTHER_SUFFIXES),
            key=lambda item: (-item[1], item[0]),
        )
        frequent = dict(ranked[:_MAX_SUFFIXES_IN_MANIFEST])
        rest = sum(self.suffixes.values()) - sum(frequent.values())
        return {**frequent, **({_OTHER_SUFFIXES: rest} if rest else {})}

    def passed_over_text(self) -> str:
        """Returns the skipped entries as a phrase, which is empty if nothing was skipped.

        An example is ``3 .heic (not a supported format), 2 links not followed``.
        """
        by_suffix = list(self.by_suffix().items())
        phrases = [
            f"{count:,} {'without suffix' if suffix == _NO_SUFFIX else suffix}"
            for suffix, count in by_suffix[:_MAX_SUFFIXES_IN_TEXT]
        ]
        if rest := sum(count for _, count in by_suffix[_MAX_SUFFIXES_IN_TEXT:]):
            phrases.append(f"{rest:,} with other suffixes")
        if phrases:
            phrases[-1] += " (not a supported format)"
        for reason, phrase in _PHRASES.items():
            if count := self.passed.get(reason, 0):
                phrases.append(f"{count:,} {phrase.format(s='' if count == 1 else 's')}")
        return ", ".join(phrases)


def passed_over_lines(manifest: Mapping[str, Any]) -> list[str]:
    """Returns the last line of a command's output if its run skipped entries, otherwise no line."""
    text = ListingCounts.from_manifest(manifest).passed_over_text()
    return [f"passed over: {text}"] if text else []


def _suffix_of(image_id: str) -> str:
    """Returns a file's suffix in lower case, or one of the two names for unusual suffixes."""
    suffix = os.path.splitext(image_id.rpartition("/")[2])[1].lower()
    if _SUFFIX.fullmatch(suffix):
        return suffix
    return _OTHER_SUFFIXES if suffix else _NO_SUFFIX


class PathPatterns:
    """Shell patterns of the files and folders to exclude.

    A pattern with a slash is compared with the path below the images folder, and its ``*`` also
    matches slashes. Any other pattern is compared with the name of a file or folder. A pattern that
    ends with a slash matches folders only. Matching is case-sensitive, and accents match however
    they are composed.

    Args:
      patterns: patterns in the form that ``--exclude`` takes.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self._for_names: list[tuple[re.Pattern[str], bool]] = []
        self._for_paths: list[tuple[re.Pattern[str], bool]] = []
        for pattern in patterns:
            bare = _compose_accents(pattern.rstrip("/"))
            anchored = re.sub(r"^(\.?/)+", "", bare)
            matchers = self._for_paths if "/" in bare else self._for_names
            # "**/" stands for any number of folders, including none.
            for form in {anchored, anchored.removeprefix("**/")}:
                matchers.append((re.compile(fnmatch.translate(form)), pattern.endswith("/")))

    def match(self, path: str, *, is_folder: bool) -> bool:
        """Returns whether a file or folder is excluded.

        Args:
          path: its path below the images folder, in the form of an image id.
          is_folder: whether it is a folder.
        """
        if not self._for_names and not self._for_paths:
            return False
        path = _compose_accents(path)
        name = path.rpartition("/")[2]
        return any(
            matcher.match(text) is not None
            for text, matchers in ((name, self._for_names), (path, self._for_paths))
            for matcher, is_for_folders in matchers
            if is_folder or not is_for_folders
        )


def _compose_accents(text: str) -> str:
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def skipped_folder(path: str, patterns: PathPatterns) -> str | None:
    """Returns the reason to skip a folder with all its content, or None to list its content.

    Args:
      path: its path below the images folder.
      patterns: the patterns of ``--exclude``.
    """
    if is_junk_folder(path.rpartition("/")[2]):
        return JUNK
    return EXCLUDED if patterns.match(path, is_folder=True) else None


def skipped_file(path: str, patterns: PathPatterns) -> str | None:
    """Returns the reason to skip a file because of its name, or None if it may be an image.

    Args:
      path: its path below the images folder.
      patterns: the patterns of ``--exclude``.
    """
    if is_junk_file(path.rpartition("/")[2]):
        return JUNK
    if patterns.match(path, is_folder=False):
        return EXCLUDED
    return None if path.lower().endswith(decoding.IMAGE_SUFFIXES) else OTHER


def list_images(folder: str, exclude: Sequence[str] = ()) -> Iterator[Entry]:
    """Lists everything below a local folder, in the order of names.

    Args:
      folder: a local path or a ``file://`` URI.
      exclude: patterns of what to exclude; see ``PathPatterns``.

    Returns:
      An iterator over images, skipped entries, and one failure for each folder that can't be read.

    Raises:
      CaptionerError: the folder is missing, is not a folder, or can't be read. The error is raised
        at the call, not at the first entry.
    """
    root = os.fsencode(os.path.abspath(local_path_of(folder)))
    if not os.path.isdir(root):
        raise CaptionerError(f"images folder {folder!r} is not a folder; name one with --images")
    try:
        os.scandir(root).close()
    except OSError as error:
        raise CaptionerError(
            f"images folder {folder!r} can't be read ({error.strerror}); fix its permissions"
        ) from error
    return _walk(root, os.path.realpath(root), PathPatterns(exclude))


def _walk(root: bytes, real_root: bytes, patterns: PathPatterns) -> Iterator[Entry]:
    # An explicit stack, because a thousand nested folders would be too deep for recursion.
    open_folders = [_scan(root, b"")]
    while open_folders:
        found = next(open_folders[-1], None)
        if found is None:
            open_folders.pop()
        elif isinstance(found, FailureRow):
            yield found
        else:
            entry, relative = found
            if not entry.is_dir(follow_symlinks=False):
                yield _classify(entry, relative, real_root, patterns)
            elif reason := skipped_folder(image_ids.image_id_of(relative), patterns):
                yield SkippedEntry(image_ids.image_id_of(relative), reason)
            elif _is_own_folder(entry.path):
                yield SkippedEntry(image_ids.image_id_of(relative), OWN)
            else:
                open_folders.append(_scan(entry.path, relative + b"/"))


def _scan(folder: bytes, prefix: bytes) -> Iterator[tuple[os.DirEntry[bytes], bytes] | FailureRow]:
    """Yields a folder's entries by name, each with its path below the root.

    Yields one failure instead if the folder can't be listed.
    """
    try:
        with os.scandir(folder) as scan:
            # Captioner's own list of files, as in a dataset's images, is not the user's file.
            unsorted = (entry for entry in scan if entry.name != _OWN_MARKER)
            entries = sorted(unsorted, key=lambda entry: entry.name)
        # Some file systems don't say what an entry is until asked, and then asking can fail too.
        for entry in entries:
            entry.is_dir(follow_symlinks=False)
    except OSError as error:
        image_id = image_ids.image_id_of(prefix.rstrip(b"/"))
        message = f"the folder can't be listed ({error.strerror}); its content was not looked at"
        yield FailureRow(LISTING, image_id, _uri_of(folder), "unreadable", message)
        return
    for entry in entries:
        yield entry, prefix + entry.name


def _classify(
    entry: os.DirEntry[bytes], relative: bytes, real_root: bytes, patterns: PathPatterns
) -> Entry:
    image_id = image_ids.image_id_of(relative)
    reason = skipped_file(image_id, patterns)
    if reason in (JUNK, EXCLUDED):
        return SkippedEntry(image_id, reason)
    if entry.is_symlink() and not _stays_below(entry.path, real_root):
        return SkippedEntry(image_id, LINK)
    if reason is None and not entry.is_file():
        reason = SPECIAL
    if reason is None and _is_own_picture(entry):
        reason = OWN
    return SkippedEntry(image_id, reason) if reason else ImageRef(image_id, _uri_of(entry.path))


def _is_own_picture(entry: os.DirEntry[bytes]) -> bool:
    """Returns whether a file is a picture that captioner wrote, such as a plot of a report."""
    return entry.name[-4:].lower() == b".png" and outputs.is_own_picture(
        _first_bytes(entry.path, _OWN_PICTURE_BYTES)
    )


def _is_own_folder(folder: bytes) -> bool:
    """Returns whether captioner made a folder, such as a run or a model, that holds no images."""
    start = _first_bytes(os.path.join(folder, _OWN_MARKER), _OWN_MARKER_BYTES)
    try:
        header: Any = json.loads(start.partition(b"\n")[0])
    except ValueError:
        return False
    return (
        isinstance(header, dict)
        and header.get("made_by") == outputs.PROGRAM
        and header.get("kind") not in (DATASET_FOLDER, IMAGE_FOLDER)
    )


def _first_bytes(path: bytes, count: int) -> bytes:
    """Returns the first bytes of a file, or none if it can't be read.

    Reading the file as an image reports the error later.
    """
    try:
        # Without O_NONBLOCK, opening a pipe would wait forever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return os.read(descriptor, count)
        finally:
            os.close(descriptor)
    except OSError:
        return b""


def _stays_below(link: bytes, real_root: bytes) -> bool:
    """Returns whether a link leads to a file below the root; loops and dangling links don't."""
    try:
        target = os.path.realpath(link, strict=True)
    except OSError:
        return False
    return _is_below(target, real_root) and os.path.isfile(target)


def _is_below(real_path: bytes, real_root: bytes) -> bool:
    return real_path.startswith(real_root.rstrip(b"/") + b"/")


def _uri_of(path: bytes) -> str:
    """Returns a path as text, or as a ``file://`` URI if it is not UTF-8."""
    try:
        return path.decode("utf-8")
    except UnicodeDecodeError:
        return "file://" + quote_from_bytes(path)


def local_path(image_uri: str) -> bytes:
    """Returns the path of a local image from the ``image_uri`` in a table."""
    return os.fsencode(local_path_of(image_uri))


def read_bytes(image_uri: str, max_bytes: int, folder: str | None = None) -> bytes:
    """Returns the content of a local image file.

    Args:
      image_uri: a path or a ``file://`` URI.
      max_bytes: largest size that is accepted, in bytes.
      folder: folder that the file must lie below at the moment of reading, whatever was there when
        it was listed. None accepts a file anywhere.

    Raises:
      ImageError: ``unreadable``, ``too_large`` or ``changed``.
    """
    try:
        path = local_path(image_uri)
        # Without O_NONBLOCK, opening a pipe that replaced the file would wait forever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if folder is not None:
                _check_below(descriptor, path, folder)
            return _read_regular(descriptor, max_bytes)
        finally:
            os.close(descriptor)
    except ImageError:
        raise
    except (OSError, ValueError) as error:  # ValueError: the path contains a NUL
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageError(
            "unreadable", f"it can't be read ({reason}); fix its permissions or the disk"
        ) from error


def _changed() -> ImageError:
    return ImageError(
        "changed",
        "it changed while it was read; run again with --only-failures once it is complete",
    )


def _check_below(descriptor: int, path: bytes, folder: str) -> None:
    """Checks that the opened file lies below the folder, and that no link has replaced it."""
    target = os.path.realpath(path)
    if not _is_below(target, os.path.realpath(os.fsencode(folder))):
        raise ImageError(
            "unreadable", "it is now a link that leaves the images folder, which is not followed"
        )
    if not os.path.samestat(os.stat(target), os.fstat(descriptor)):
        raise _changed()


def _read_regular(descriptor: int, max_bytes: int) -> bytes:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise ImageError("unreadable", "it is no longer a regular file")
    too_large = ImageError(
        "too_large", f"it holds more than the {max_bytes} bytes that --max-bytes allows"
    )
    if status.st_size > max_bytes:
        raise too_large
    with open(descriptor, "rb", closefd=False) as stream:
        # Reading one byte more than expected detects a file that grows meanwhile.
        # Some network file systems report a size of 0 for every file.
        data = stream.read((status.st_size or max_bytes) + 1)
    if len(data) > max_bytes:
        raise too_large
    now = os.fstat(descriptor)
    has_changed = (now.st_size, now.st_mtime_ns) != (status.st_size, status.st_mtime_ns)
    if has_changed or len(data) < now.st_size:
        raise _changed()
    return data
