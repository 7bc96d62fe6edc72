"""The images below a local folder, one at a time, and their bytes.

A listing never holds more than one folder's entries, comes in a fixed order and follows
no link that leaves the folder. Folder links are not walked at all: what lies behind one
inside the folder is listed under its own name anyway, and loops can't happen.
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
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote_from_bytes

from captioner_core.errors import CaptionerError, ImageError
from captioner_core.images.decoding import IMAGE_SUFFIXES
from captioner_core.images.image_ids import image_id_of
from captioner_core.images.junk import is_junk_file, is_junk_folder
from captioner_core.io import outputs
from captioner_core.security.allowed_roots import local_path_of
from captioner_core.tables.schemas import LISTING, FailureRow, ImageRef

OTHER, LINK, SPECIAL, JUNK, EXCLUDED, OWN = "other", "link", "special", "junk", "excluded", "own"
"""Why something is passed over: its suffix is no image's, it is a link that is not followed, a pipe or a device, a
system's own or hidden, left out by ``--exclude``, or made by captioner itself."""

_SAID = {
    LINK: "link{s} not followed",
    SPECIAL: "pipe{s} or device{s}",
    JUNK: "hidden folder{s} and system file{s}",
    EXCLUDED: "left out by --exclude",
    OWN: "of captioner's own",
}
_COUNTED_AS = {
    LINK: "links",
    SPECIAL: "special_files",
    JUNK: "junk",
    EXCLUDED: "excluded",
    OWN: "own",
}
PASSED_OVER_BY_SUFFIX: Final = "passed_over_by_suffix"
"""The key of a manifest under which the files are counted whose suffix is no image's."""
_NO_SUFFIX, _OTHER_SUFFIXES = "no suffix", "other"
_SUFFIX = re.compile(r"\.\w{1,12}")
_MOST_SUFFIXES_COUNTED, _MOST_SUFFIXES_STATED, _MOST_SUFFIXES_SAID = 200, 20, 5

_OWN_MARKER = os.fsencode(outputs.MARKER)
_OWN_MARKER_BYTES = 512
_FOLDERS_WITH_IMAGES = ("dataset", "folder of images")
_OWN_PICTURE_BYTES = 200


@dataclass(frozen=True, slots=True)
class SkippedEntry:
    """Something that is no image by the rules: another file, or a link or folder not followed.

    Args:
      image_id: its path below the images folder, written as an image's id is.
      reason: one of ``OTHER``, ``LINK``, ``SPECIAL``, ``JUNK``, ``EXCLUDED`` and ``OWN``.
    """

    image_id: str
    reason: str


Entry = ImageRef | SkippedEntry | FailureRow


@dataclass(frozen=True)
class ListingCounts:
    """What a listing found; a folder that can't be read counts as an image found and failed.

    Args:
      images: images found.
      passed: entries passed over, by reason. A folder that is passed over counts as one.
      suffixes: files passed over since their suffix is no image's, by suffix in lower case.
    """

    images: int = 0
    passed: Mapping[str, int] = field(default_factory=dict)
    suffixes: Mapping[str, int] = field(default_factory=dict)

    @property
    def other(self) -> int:
        """Files that are no images by their suffix or kind."""
        return self.passed.get(OTHER, 0) + self.passed.get(SPECIAL, 0)

    @property
    def links(self) -> int:
        """Links that were not followed."""
        return self.passed.get(LINK, 0)

    @property
    def passed_over(self) -> int:
        """Everything that was passed over."""
        return sum(self.passed.values())

    @property
    def is_empty(self) -> bool:
        """Whether there was nothing at all."""
        return not self.images and not self.passed

    def counting(self, entry: Entry) -> ListingCounts:
        """Returns these counts and one entry more."""
        if not isinstance(entry, SkippedEntry):
            return dataclasses.replace(self, images=self.images + 1)
        suffixes = self.suffixes
        if entry.reason == OTHER:
            suffix = _suffix_of(entry.image_id)
            if suffix not in suffixes and len(suffixes) >= _MOST_SUFFIXES_COUNTED:
                suffix = _OTHER_SUFFIXES
            suffixes = {**suffixes, suffix: suffixes.get(suffix, 0) + 1}
        passed = {**self.passed, entry.reason: self.passed.get(entry.reason, 0) + 1}
        return dataclasses.replace(self, passed=passed, suffixes=suffixes)

    def as_manifest(self) -> dict[str, int]:
        """Returns the counts that a run's manifest states among those of its tables."""
        return {
            "images_found": self.images,
            "files_passed_over": self.passed_over,
            **{
                f"{name}_passed_over": self.passed.get(reason, 0)
                for reason, name in _COUNTED_AS.items()
            },
        }

    @classmethod
    def of_manifest(cls, manifest: Mapping[str, Any]) -> ListingCounts:
        """Returns what a run's manifest states of its listing; of an earlier version's, what there is."""
        counts, suffixes = manifest.get("counts", {}), manifest.get(PASSED_OVER_BY_SUFFIX, {})
        passed = {
            reason: counts.get(f"{name}_passed_over", 0) for reason, name in _COUNTED_AS.items()
        }
        passed[OTHER] = sum(suffixes.values())
        return cls(
            counts.get("images_found", 0),
            {reason: n for reason, n in passed.items() if n},
            suffixes,
        )

    def by_suffix(self) -> dict[str, int]:
        """Returns the numbers of files passed over for their suffix: of the most frequent ones, and of all others."""
        ranked = sorted(
            (found for found in self.suffixes.items() if found[0] != _OTHER_SUFFIXES),
            key=lambda found: (-found[1], found[0]),
        )
        stated = dict(ranked[:_MOST_SUFFIXES_STATED])
        rest = sum(self.suffixes.values()) - sum(stated.values())
        return {**stated, **({_OTHER_SUFFIXES: rest} if rest else {})}

    def passed_over_text(self) -> str:
        """Returns what was passed over as a phrase, such as ``3 .heic (not a supported format), 2 links not followed``.

        Returns:
          The phrase; empty where nothing was passed over.
        """
        by_suffix = list(self.by_suffix().items())
        said = [
            f"{count:,} {'without suffix' if suffix == _NO_SUFFIX else suffix}"
            for suffix, count in by_suffix
        ]
        if len(said) > _MOST_SUFFIXES_SAID:
            more = sum(count for _, count in by_suffix[_MOST_SUFFIXES_SAID:])
            said = [*said[:_MOST_SUFFIXES_SAID], f"{more:,} with other suffixes"]
        if said:
            said[-1] += " (not a supported format)"
        for reason, words in _SAID.items():
            if count := self.passed.get(reason, 0):
                said.append(f"{count:,} {words.format(s='' if count == 1 else 's')}")
        return ", ".join(said)


def passed_over_lines(manifest: Mapping[str, Any]) -> list[str]:
    """Returns the line with which a command ends that passed over something; none where it passed over nothing."""
    text = ListingCounts.of_manifest(manifest).passed_over_text()
    return [f"passed over: {text}"] if text else []


def _suffix_of(image_id: str) -> str:
    suffix = os.path.splitext(image_id.rpartition("/")[2])[1].lower()
    return suffix if _SUFFIX.fullmatch(suffix) else _OTHER_SUFFIXES if suffix else _NO_SUFFIX


class PathPatterns:
    """Shell patterns that files and folders are left out by.

    A pattern with a slash is compared with the path below the images folder, and ``*`` stands for slashes too; any
    other with the name of a file or folder. A pattern that ends with a slash is for folders alone. Upper and lower
    case differ, and accents match however they are composed.

    Args:
      patterns: as ``--exclude`` takes them.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self._of_names: list[tuple[re.Pattern[str], bool]] = []
        self._of_paths: list[tuple[re.Pattern[str], bool]] = []
        for pattern in patterns:
            bare = _composed(pattern.rstrip("/"))
            anchored = re.sub(r"^(\.?/)+", "", bare)
            matchers = self._of_paths if "/" in bare else self._of_names
            # "**/" stands for any folders, none among them
            for form in {anchored, anchored.removeprefix("**/")}:
                matchers.append((re.compile(fnmatch.translate(form)), pattern.endswith("/")))

    def match(self, path: str, *, is_folder: bool) -> bool:
        """Returns whether a file or folder is left out.

        Args:
          path: below the images folder, written as an image's id is.
          is_folder: whether it is a folder.
        """
        if not self._of_names and not self._of_paths:
            return False
        path = _composed(path)
        name = path.rpartition("/")[2]
        return any(
            matcher.match(text) is not None
            for text, matchers in ((name, self._of_names), (path, self._of_paths))
            for matcher, of_folders in matchers
            if is_folder or not of_folders
        )


def _composed(text: str) -> str:
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def skipped_folder(path: str, patterns: PathPatterns) -> str | None:
    """Returns why a folder is passed over with all that is in it, or None where it is looked into.

    Args:
      path: below the images folder.
      patterns: of ``--exclude``.
    """
    if is_junk_folder(path.rpartition("/")[2]):
        return JUNK
    return EXCLUDED if patterns.match(path, is_folder=True) else None


def skipped_file(path: str, patterns: PathPatterns) -> str | None:
    """Returns why a file of this name is no image, or None where it may be one.

    Args:
      path: below the images folder.
      patterns: of ``--exclude``.
    """
    if is_junk_file(path.rpartition("/")[2]):
        return JUNK
    if patterns.match(path, is_folder=False):
        return EXCLUDED
    return None if path.lower().endswith(IMAGE_SUFFIXES) else OTHER


def list_images(folder: str, exclude: Sequence[str] = ()) -> Iterator[Entry]:
    """Lists everything below a folder, in order of names.

    Args:
      folder: a local path or a ``file://`` URI.
      exclude: patterns of what is left out; see ``PathPatterns``.

    Raises:
      CaptionerError: at once, where the folder is missing, no folder, or can't be read.
    """
    root = os.fsencode(os.path.abspath(local_path_of(folder)))
    if not os.path.isdir(root):
        raise CaptionerError(f"images folder {folder!r} is not a folder; name one with --images")
    try:
        os.scandir(root).close()
    except OSError as error:
        raise CaptionerError(
            f"images folder {folder!r} can't be read ({error.strerror}); mend its permissions"
        ) from error
    return _walk(root, os.path.realpath(root), PathPatterns(exclude))


def _walk(root: bytes, real_root: bytes, patterns: PathPatterns) -> Iterator[Entry]:
    # A stack of its own: a thousand folders within each other would be too deep for recursion
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
                yield _classified(entry, relative, real_root, patterns)
            elif reason := skipped_folder(image_id_of(relative), patterns):
                yield SkippedEntry(image_id_of(relative), reason)
            elif _is_own_folder(entry.path):
                yield SkippedEntry(image_id_of(relative), OWN)
            else:
                open_folders.append(_scan(entry.path, relative + b"/"))


def _scan(folder: bytes, below: bytes) -> Iterator[tuple[os.DirEntry[bytes], bytes] | FailureRow]:
    """A folder's entries by name, each with its path below the root; one failure where it can't be listed."""
    try:
        with os.scandir(folder) as scan:
            # captioner's own list of files, as in a folder of a dataset's images, is not among what a user put there
            named = (entry for entry in scan if entry.name != _OWN_MARKER)
            entries = sorted(named, key=lambda entry: entry.name)
        for (
            entry
        ) in entries:  # where the file system doesn't say what an entry is, asking can fail too
            entry.is_dir(follow_symlinks=False)
    except OSError as error:
        image_id = image_id_of(below.rstrip(b"/"))
        message = f"the folder can't be listed ({error.strerror}); what is in it was not looked at"
        yield FailureRow(LISTING, image_id, _uri(folder), "unreadable", message)
        return
    for entry in entries:
        yield entry, below + entry.name


def _classified(
    entry: os.DirEntry[bytes], relative: bytes, real_root: bytes, patterns: PathPatterns
) -> Entry:
    image_id = image_id_of(relative)
    reason = skipped_file(image_id, patterns)
    if reason in (JUNK, EXCLUDED):
        return SkippedEntry(image_id, reason)
    if entry.is_symlink() and not _stays_below(entry.path, real_root):
        return SkippedEntry(image_id, LINK)
    if reason is None and not entry.is_file():
        reason = SPECIAL
    if (
        reason is None
        and entry.name[-4:].lower() == b".png"
        and outputs.is_own_picture(_first_bytes(entry.path, _OWN_PICTURE_BYTES))
    ):
        reason = OWN
    return SkippedEntry(image_id, reason) if reason else ImageRef(image_id, _uri(entry.path))


def _is_own_folder(folder: bytes) -> bool:
    """Returns whether captioner made a folder that is no user's images: a run or a model, as its marker says."""
    first_line = _first_bytes(os.path.join(folder, _OWN_MARKER), _OWN_MARKER_BYTES).partition(
        b"\n"
    )[0]
    try:
        header: Any = json.loads(first_line)
    except ValueError:
        return False
    return (
        isinstance(header, dict)
        and header.get("made_by") == outputs.PROGRAM
        and header.get("kind") not in _FOLDERS_WITH_IMAGES
    )


def _first_bytes(path: bytes, count: int) -> bytes:
    """Returns the first bytes of a file; none where it can't be read, which reading it as an image says."""
    try:
        # Without O_NONBLOCK, a pipe would never open
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return os.read(descriptor, count)
        finally:
            os.close(descriptor)
    except OSError:
        return b""


def _stays_below(link: bytes, real_root: bytes) -> bool:
    """Whether a link leads to a file below the root; loops and dangling links don't."""
    try:
        target = os.path.realpath(link, strict=True)
    except OSError:
        return False
    return _is_below(target, real_root) and os.path.isfile(target)


def _is_below(real_path: bytes, real_root: bytes) -> bool:
    return real_path.startswith(real_root.rstrip(b"/") + b"/")


def _uri(path: bytes) -> str:
    """The path as it is; a name that is no UTF-8 can't be text, so it becomes a ``file://`` URI."""
    try:
        return path.decode("utf-8")
    except UnicodeDecodeError:
        return "file://" + quote_from_bytes(path)


def local_path(image_uri: str) -> bytes:
    """The path that ``image_uri`` of a local image stands for."""
    return os.fsencode(local_path_of(image_uri))


def read_bytes(image_uri: str, max_bytes: int, folder: str | None = None) -> bytes:
    """A local image file's bytes.

    Args:
      image_uri: a path or a ``file://`` URI.
      max_bytes: that it may hold.
      folder: that it must lie below now, whatever was there when it was listed; anywhere where None.

    Raises:
      ImageError: ``unreadable``, ``too_large`` or ``changed``.
    """
    try:
        path = local_path(image_uri)
        # Without O_NONBLOCK, a pipe put there since the listing would never open
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if folder is not None:
                _check_below(descriptor, path, folder)
            return _read_regular(descriptor, max_bytes)
        finally:
            os.close(descriptor)
    except ImageError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageError(
            "unreadable", f"it can't be read ({reason}); mend its permissions or the disk"
        ) from error


def _changed() -> ImageError:
    return ImageError(
        "changed", "it changed while it was read; once it is whole, run again with --only-failures"
    )


def _check_below(descriptor: int, path: bytes, folder: str) -> None:
    """Makes sure that the opened file is one below the folder: no link was put in its way since it was listed."""
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
        # One byte more than it should hold: a file that grows meanwhile is held to the limit too.
        # Some network file systems say 0 of every file.
        data = stream.read((status.st_size or max_bytes) + 1)
    if len(data) > max_bytes:
        raise too_large
    now = os.fstat(descriptor)
    if (now.st_size, now.st_mtime_ns) != (status.st_size, status.st_mtime_ns) or len(
        data
    ) < now.st_size:
        raise _changed()
    return data
