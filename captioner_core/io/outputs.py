"""Output folders and files: a command replaces and deletes only what captioner made.

An output folder carries a marker, ``.captioner-files``. Its first line says that captioner made the
folder and of which kind it is; every further line is the path of a file or folder that captioner
created in it. A path is listed before its file is created, so the list is complete at any moment at
which the process may be killed. Whatever the marker does not list belongs to somebody else.

New files are first written to a staging folder inside the output folder and then renamed, so that a
file which is shared with another name (a hard link) is never written to.

This module imports nothing heavy; the listing of images uses ``is_own_picture``.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import uuid4

from captioner_core.errors import CaptionerError
from captioner_core.io.json_text import parse_json
from captioner_core.security.allowed_roots import is_remote, local_path_of, stays_below

MARKER = ".captioner-files"
STAGING = ".captioner-new"
FORMAT_VERSION = 1
PROGRAM = "captioner"

PNG_SOFTWARE = "Software"
"""The keyword of the PNG text chunk that names the program that made a picture."""

Inputs = Mapping[str, Sequence[str | os.PathLike[str]]]
"""Option names, such as ``--images``, and the paths that they name."""

_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.tmp")
_DISK_FAILS = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_HEADER_END = 33  # the signature, and the chunk IHDR with its length, name and checksum
_SVG_CREATOR = b"<dc:title>captioner</dc:title>"


# --- The marker


def format_marker(kind: str, paths: Iterable[str]) -> bytes:
    """Returns the content of a marker that lists these paths."""
    header = {"made_by": PROGRAM, "kind": kind, "format_version": FORMAT_VERSION}
    return b"".join(_marker_line(value) for value in (header, *sorted(paths)))


def _marker_line(value: object) -> bytes:
    return json.dumps(value).encode("ascii") + b"\n"


def parse_marker(data: bytes, kind: str, what: str) -> set[str]:
    """Returns the paths that a marker lists; folders end in ``/``.

    A last line without its end was being written when a process was killed. Its file was not created
    yet, so the line does not count.

    Args:
      data: the marker's content.
      kind: the kind of folder that is wanted.
      what: the option and the folder, for the error message.

    Raises:
      CaptionerError: the marker is damaged, of another kind, or of a later version.
    """
    lines = data.split(b"\n")[:-1]
    damaged = CaptionerError(
        f"{what} has a damaged {MARKER}, so captioner cannot tell which files it made; "
        "name another folder, or move your own files away and delete this one"
    )
    try:
        header, *paths = (parse_json(line) for line in lines)
    except ValueError:
        raise damaged from None
    if (
        not isinstance(header, dict)
        or header.get("made_by") != PROGRAM
        or not isinstance(header.get("kind"), str)
    ):
        raise damaged
    if header.get("format_version") != FORMAT_VERSION:
        raise CaptionerError(
            f"{what} was made by a later version of captioner; use that version or name another folder"
        )
    if header["kind"] != kind:
        raise CaptionerError(
            f"{what} holds a {header['kind']}, which is no {kind}; name another folder"
        )
    if not all(_is_plain_path(path) for path in paths):
        raise damaged
    return set(paths)


def _is_plain_path(path: object) -> bool:
    """Returns whether a marker's value is a path below the folder in its shortest form."""
    if not isinstance(path, str) or not stays_below(path):
        return False
    return str(PurePosixPath(path)) == path.removesuffix("/") and path not in (MARKER, ".", "./")


def is_temporary_name(name: str, of: str) -> bool:
    """Returns whether a name is the temporary one under which ``storage.write_text`` writes a file."""
    return name.startswith(of) and _TEMPORARY.fullmatch(name[len(of) :]) is not None


def temporary_name(name: str) -> str:
    """Returns a new name, which nobody else uses, to write a file under before it is renamed."""
    return f"{name}.{uuid4().hex}.tmp"


# --- Checks before work


def check_reachable(path: str | os.PathLike[str], option: str) -> None:
    """Refuses a folder that could not be made or written to.

    Raises:
      CaptionerError: the path is a file or a device, lies below one, is a link that leads nowhere, or
        may not be written to.
    """
    shown = os.fspath(path)
    if _local_path(shown) is None:
        raise CaptionerError(
            f"{option} {shown!r} is no local path, which this command needs; name a local folder"
        )
    try:
        above = _nearest_existing(shown)
        mode = os.stat(above).st_mode
    except (OSError, ValueError) as error:
        raise CaptionerError(
            f"{option} {shown!r} cannot be used ({_reason(error)}); name another folder"
        ) from error
    if not stat.S_ISDIR(mode):
        kind = "a file" if stat.S_ISREG(mode) else "a device or a special file"
        where = (
            f"is {kind}"
            if above == os.path.abspath(shown)
            else f"lies below {above!r}, which is {kind}"
        )
        raise CaptionerError(f"{option} {shown!r} {where} and not a folder; name another folder")
    _check_writable(above, option, shown)


def make_folders(path: str | os.PathLike[str], what: str) -> None:
    """Makes a folder and those above it.

    Raises:
      CaptionerError: it can't be made there.
      OSError: the disk is full or fails.
    """
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        if error.errno in _DISK_FAILS:
            raise
        raise CaptionerError(
            f"{what} cannot be made ({_reason(error)}); name another folder"
        ) from error


def _nearest_existing(path: str) -> str:
    """Returns the path itself, or the nearest of the folders above it that exists.

    Raises:
      OSError: a part of the path cannot be looked at, or is a link that leads nowhere.
      ValueError: the path holds a NUL.
    """
    above = os.path.abspath(path)
    while True:
        try:
            is_link = stat.S_ISLNK(os.lstat(above).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            above = os.path.dirname(above)
            continue
        if is_link:
            os.stat(above)  # raises where the link leads nowhere
        return above


def _check_writable(folder: str, option: str, shown: str) -> None:
    if os.access(folder, os.W_OK | os.X_OK):
        return
    is_read_only = os.statvfs(folder).f_flag & os.ST_RDONLY
    reason = os.strerror(errno.EROFS if is_read_only else errno.EACCES)
    raise CaptionerError(
        f"{option} {shown!r} cannot be written to ({reason}: {folder!r}); mend the permissions or name another folder"
    )


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def check_apart(path: str | os.PathLike[str], option: str, inputs: Inputs) -> None:
    """Refuses an output that is one of the inputs or a folder that holds one, by whatever spelling or link.

    Raises:
      CaptionerError: it is.
    """
    shown, output = os.fspath(path), os.path.realpath(path)
    for name, places in inputs.items():
        for place in places:
            if is_same_or_below(place, output):
                raise CaptionerError(
                    f"{option} {shown!r} is or holds {name} {os.fspath(place)!r}, which is read; name another {option}"
                )


def is_same_or_below(place: str | os.PathLike[str], folder: str | os.PathLike[str]) -> bool:
    """Returns whether a local path is a file or folder, or lies below it, links resolved."""
    local = _local_path(os.fspath(place))
    if local is None:
        return False
    real, above = os.path.realpath(local), os.path.realpath(folder)
    for candidate in (real, *map(str, Path(real).parents)):
        if candidate == above or _is_same_file(candidate, above):
            return True
    return False


def _is_same_file(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):
        return False


def _local_path(place: str) -> str | None:
    """Returns the path of a local input; None for a URI of a store."""
    return None if is_remote(place) else local_path_of(place)


Adopt = Callable[[Path], "set[str] | None"]
"""Returns the files of a folder that an earlier version made without a marker; None for any other folder."""


def check_output_folder(
    path: str | os.PathLike[str],
    *,
    kind: str,
    option: str = "--output",
    inputs: Inputs | None = None,
    adopt: Adopt | None = None,
) -> None:
    """Refuses, before any work, a folder that captioner may not write to; changes nothing.

    Args:
      path: the folder.
      kind: what it is to hold, such as ``dataset``.
      option: the option that names it, for the error message.
      inputs: what the command reads, which may not be or lie in the folder.
      adopt: tells the files of a folder that an earlier version made.

    Raises:
      CaptionerError: the folder holds files that captioner did not make, is or holds an input, or cannot
        be written to.
    """
    _inspect(path, kind, option, inputs, adopt)


def _inspect(
    path: str | os.PathLike[str], kind: str, option: str, inputs: Inputs | None, adopt: Adopt | None
) -> set[str]:
    """Returns what a folder's marker lists; nothing for a folder that is absent or empty."""
    check_reachable(path, option)
    check_apart(path, option, inputs or {})
    folder, what = Path(os.path.realpath(path)), f"{option} {os.fspath(path)!r}"
    if not folder.exists():
        return set()
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise CaptionerError(
            f"{what} cannot be read ({_reason(error)}); mend its permissions"
        ) from error
    if MARKER in names:
        return parse_marker(_read_marker(folder, what), kind, what)
    found = sorted(name for name in names if not is_temporary_name(name, MARKER))
    if not found:
        return set()
    adopted = adopt(folder) if adopt is not None else None
    if adopted is None:
        raise CaptionerError(
            f"{what} holds files that captioner did not make, such as {found[0]!r}; name a folder that is absent or "
            "empty, or one that captioner made"
        )
    return adopted


def _read_marker(folder: Path, what: str) -> bytes:
    try:
        descriptor = os.open(
            folder / MARKER, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        )
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(0, "it is no regular file")
            return file.read()
    except OSError as error:
        raise CaptionerError(
            f"{what}: its {MARKER} cannot be read ({_reason(error)}); name another folder"
        ) from error


# --- Folders


class OutputFolder:
    """A local folder that captioner writes; made by ``claim``.

    New files are staged, which leaves the folder's present files as they are. Then ``publish`` renames
    them to their places and deletes captioner's other files.

    Args:
      path: the folder, links resolved.
      kind: what it holds.
      what: the option and the folder, for error messages.
      listed: the paths that the marker lists.
    """

    def __init__(self, path: Path, kind: str, what: str, listed: set[str]) -> None:
        self.path = path
        self._kind, self._what, self._listed = kind, what, listed
        self._log = -1
        self._is_new = False

    @classmethod
    def claim(
        cls,
        path: str | os.PathLike[str],
        *,
        kind: str,
        option: str = "--output",
        inputs: Inputs | None = None,
        adopt: Adopt | None = None,
    ) -> OutputFolder:
        """Makes a folder captioner's own, where it is absent, empty or captioner's already.

        Files that a killed process left in the staging folder are removed.

        Args:
          path: the folder.
          kind: what it is to hold, such as ``dataset``.
          option: the option that names it, for the error message.
          inputs: what the command reads, which may not be or lie in the folder.
          adopt: tells the files of a folder that an earlier version made.

        Raises:
          CaptionerError: see ``check_output_folder``.
        """
        listed = _inspect(path, kind, option, inputs, adopt)
        real = Path(os.path.realpath(path))
        what = f"{option} {os.fspath(path)!r}"
        is_new = not real.exists()
        make_folders(real, what)
        folder = cls(real, kind, what, listed)
        for name in os.listdir(real):
            if is_temporary_name(name, MARKER) and _is_regular(real / name):
                (real / name).unlink()
        folder._is_new = is_new
        folder._rewrite_marker()
        folder.discard_staged()
        return folder

    def has(self, relative: str) -> bool:
        """Returns whether a file that captioner made is there, and neither it nor a folder above it is a link."""
        return (
            relative in self._listed
            and not self._link_above(relative)
            and _is_regular(self.path / relative)
        )

    def is_staged(self, relative: str) -> bool:
        """Returns whether a new file for this path is staged."""
        return f"{STAGING}/{relative}" in self._listed

    def check_free(self, relatives: Iterable[str]) -> None:
        """Refuses, before anything is changed, paths at which somebody else's file lies.

        Raises:
          CaptionerError: a file, folder or link that captioner did not make is in the way, or a folder
            cannot be written to.
        """
        folders = {str(PurePosixPath(relative).parent) for relative in (*relatives, *self._listed)}
        for relative in relatives:
            self._check_target(relative)
        for name in sorted(folders):
            folder = self.path / name
            if not self._link_above(f"{name}/x") and folder.is_dir():
                _check_writable(str(folder), self._what, name)

    def stage(self, relative: str) -> Path:
        """Returns the path of a new file to write; ``place`` moves it to ``relative``.

        Raises:
          CaptionerError: somebody else's file or link is in the way.
        """
        staged = self._make_parents(f"{STAGING}/{relative}")
        self._check_target(f"{STAGING}/{relative}")
        # a file that a killed process left here may share its bytes with somebody's picture
        staged.unlink(missing_ok=True)
        self._list(f"{STAGING}/{relative}")
        return staged

    def staging(self) -> Path:
        """Returns the folder that holds the staged files."""
        return self.path / STAGING

    def place(self, relative: str) -> Path:
        """Moves a staged file to its place, where it replaces captioner's own file.

        Raises:
          CaptionerError: somebody else's file or link is in the way.
        """
        target = self._make_parents(relative)
        self._check_target(relative)
        self._list(relative)
        os.replace(self.path / STAGING / relative, target)
        self._listed.discard(f"{STAGING}/{relative}")
        return target

    def remove(self, relative: str) -> None:
        """Deletes a file that captioner made; a link that lies there now, or on the way there, is left alone."""
        if relative not in self._listed:
            return
        path = self.path / relative
        if not self._link_above(relative) and _is_regular(path):
            path.unlink()
        self._listed.discard(relative)

    def keep_only(self, relatives: Collection[str]) -> None:
        """Deletes captioner's other files, and the folders that captioner made and that are empty then.

        Staged files stay.
        """
        wanted = set(relatives)
        own = [
            path
            for path in self._listed
            if not path.startswith(f"{STAGING}/") and not path.endswith("/")
        ]
        for path in own:
            if path not in wanted:
                self.remove(path)
        self._remove_empty_folders("")

    def discard_staged(self) -> None:
        """Deletes the staged files."""
        for path in [
            path
            for path in self._listed
            if path.startswith(f"{STAGING}/") and not path.endswith("/")
        ]:
            self.remove(path)
        self._remove_empty_folders(f"{STAGING}/")

    def reserve(self, relative: str) -> Path:
        """Returns the path of a file that its writer names and replaces by itself.

        Raises:
          CaptionerError: somebody else's file or link is in the way.
        """
        path = self._make_parents(relative)
        self._check_target(relative)
        self._list(relative)
        return path

    def make_folder(self, relative: str) -> Path:
        """Returns a folder below this one, made unless it is there.

        Raises:
          CaptionerError: somebody else's file or link is in the way.
        """
        return self._make_parents(f"{relative}/x").parent

    def publish(self, relatives: Iterable[str], mark: str) -> None:
        """Makes the folder hold these of captioner's files and no others, of which the staged ones are new.

        The mark, without which readers take the folder for unfinished, is removed first and placed last.
        So a process that is killed leaves the old content or an unfinished folder, and no mixture.

        Raises:
          CaptionerError: somebody else's file or link is in the way; nothing is changed.
        """
        wanted = sorted({*relatives} - {mark})
        self.check_free([*wanted, mark])
        self.remove(mark)
        self.keep_only(wanted)
        for relative in (*filter(self.is_staged, wanted), mark):
            self.place(relative)
        self.finish()

    def abandon(self) -> None:
        """Deletes the staged files, and the marker and the folder if there is nothing else in them."""
        self.discard_staged()
        if self._listed:
            return
        (self.path / MARKER).unlink(missing_ok=True)
        if self._is_new:
            with contextlib.suppress(OSError):  # somebody has put a file there meanwhile
                self.path.rmdir()

    def finish(self) -> None:
        """Deletes what is left of staging and writes the marker anew, without files that are gone."""
        self.discard_staged()
        self._rewrite_marker()
        self._close_log()

    def _remove_empty_folders(self, below: str) -> None:
        folders = [path for path in self._listed if path.endswith("/") and path.startswith(below)]
        for path in sorted(folders, key=len, reverse=True):
            if self._link_above(path) or (self.path / path.rstrip("/")).is_symlink():
                continue
            with contextlib.suppress(OSError):  # it is not empty, or gone
                os.rmdir(self.path / path)
                self._listed.discard(path)

    def _make_parents(self, relative: str) -> Path:
        """Makes the folders of a file, each listed before it is made; returns the file's path."""
        path = self.path
        parts = PurePosixPath(relative).parts
        for number, part in enumerate(parts[:-1], start=1):
            path = path / part
            try:
                mode = os.lstat(path).st_mode
            except FileNotFoundError:
                self._list("/".join(parts[:number]) + "/")
                path.mkdir()
                continue
            if not stat.S_ISDIR(mode):
                raise self._in_the_way("/".join(parts[:number]))
        return path / parts[-1]

    def _check_target(self, relative: str) -> None:
        if link := self._link_above(relative):
            raise self._in_the_way(link)
        path = self.path / relative
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            return
        except NotADirectoryError:
            # a file of an older output, which is deleted before this one is placed
            file = next(
                str(p)
                for p in reversed(PurePosixPath(relative).parents)
                if (self.path / p).is_file()
            )
            if file not in self._listed:
                raise self._in_the_way(file) from None
            return
        if stat.S_ISDIR(mode):
            self._check_own_folder(relative)
        elif relative not in self._listed or not stat.S_ISREG(mode):
            raise self._in_the_way(relative)

    def _check_own_folder(self, relative: str) -> None:
        """Refuses a folder in a file's place, unless captioner made all that is in it."""
        for folder, folders, files in os.walk(self.path / relative):
            below = Path(folder).relative_to(self.path).as_posix()
            names = [
                f"{below}/",
                *(f"{below}/{name}" for name in files),
                *(f"{below}/{name}/" for name in folders),
            ]
            for name in names:
                if name not in self._listed:
                    raise self._in_the_way(name)

    def _link_above(self, relative: str) -> str | None:
        """Returns the first link among the folders on the way to a path; None without one."""
        path = ""
        for part in PurePosixPath(relative).parts[:-1]:
            path = f"{path}/{part}" if path else part
            if (self.path / path).is_symlink():
                return path
        return None

    def _in_the_way(self, relative: str) -> CaptionerError:
        return CaptionerError(
            f"{self._what} holds {relative!r}, which captioner did not make and leaves as it is; "
            "move it away or name another folder"
        )

    def _list(self, relative: str) -> None:
        if relative not in self._listed:
            os.write(self._log, _marker_line(relative))
            self._listed.add(relative)

    def _rewrite_marker(self) -> None:
        self._listed = {path for path in self._listed if os.path.lexists(self.path / path)}
        made = self.path / temporary_name(MARKER)
        made.write_bytes(format_marker(self._kind, self._listed))
        os.replace(made, self.path / MARKER)
        self._close_log()
        self._log = os.open(
            self.path / MARKER, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        )

    def _close_log(self) -> None:
        log, self._log = self._log, -1  # first: the number may be another file's soon
        if log >= 0:
            os.close(log)

    def __del__(self) -> None:
        self._close_log()


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


# --- Single files


def is_own_picture(first_bytes: bytes) -> bool:
    """Returns whether captioner made a picture, as its PNG or SVG metadata say; the first 4096 bytes tell."""
    if first_bytes.startswith(_PNG_SIGNATURE):
        chunk = first_bytes[_PNG_HEADER_END:]
        text = f"{PNG_SOFTWARE}\0{PROGRAM}".encode()
        return (
            chunk[:4] == len(text).to_bytes(4, "big") and chunk[4 : 8 + len(text)] == b"tEXt" + text
        )
    return first_bytes.lstrip().startswith(b"<?xml") and _SVG_CREATOR in first_bytes


def check_output_file(
    path: str | os.PathLike[str],
    *,
    is_own: Callable[[bytes], bool],
    option: str = "--output",
    inputs: Inputs | None = None,
    makes_parents: bool = False,
) -> None:
    """Refuses, before any work, a file that captioner may not write; changes nothing.

    Args:
      path: the file.
      is_own: tells by an existing file's content whether captioner made it.
      option: the option that names it, for the error message.
      inputs: what the command reads, which the file may not be.
      makes_parents: whether the folder of the file may be absent.

    Raises:
      CaptionerError: the file is an input, or exists and captioner did not make it; or it is a folder, a
        device or a link; or its folder is missing or cannot be written to.
    """
    shown = os.fspath(path)
    what = f"{option} {shown!r}"
    check_apart(shown, option, inputs or {})
    try:
        mode = os.lstat(shown).st_mode
    except (FileNotFoundError, NotADirectoryError):
        _check_parent(shown, option, makes_parents)
        return
    except (OSError, ValueError) as error:
        raise CaptionerError(
            f"{what} cannot be written ({_reason(error)}); name another file"
        ) from error
    if stat.S_ISLNK(mode):
        raise CaptionerError(
            f"{what} is a link, and captioner writes through none; name another file"
        )
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a device or a special file"
        raise CaptionerError(f"{what} is {kind}; name a file")
    _check_parent(shown, option, makes_parents)
    try:
        content = Path(shown).read_bytes()
    except OSError as error:
        raise CaptionerError(
            f"{what} exists and cannot be read ({_reason(error)}); name another file"
        ) from error
    if not is_own(content):
        raise CaptionerError(
            f"{what} exists and captioner did not make it; name another file, or move that one away"
        )


def _check_parent(path: str, option: str, makes_parents: bool) -> None:
    parent = os.path.dirname(path) or "."
    check_reachable(parent, option)
    if not makes_parents and not os.path.isdir(parent):
        raise CaptionerError(
            f"{option} {path!r} lies in a folder that does not exist; make the folder first"
        )


@contextlib.contextmanager
def replacing(
    path: str | os.PathLike[str],
    *,
    is_own: Callable[[bytes], bool],
    option: str = "--output",
    makes_parents: bool = False,
) -> Iterator[Path]:
    """Yields a temporary path to write; the file takes its place at the end, or is removed if the block raises.

    Raises:
      CaptionerError: see ``check_output_file``, which is asked again just before.
    """
    check_output_file(path, is_own=is_own, option=option, makes_parents=makes_parents)
    target = Path(path)
    if makes_parents:
        target.parent.mkdir(parents=True, exist_ok=True)
    made = target.with_name(temporary_name(".captioner"))
    try:
        yield made
        check_output_file(path, is_own=is_own, option=option)
        os.replace(made, target)
    finally:
        made.unlink(missing_ok=True)


def parse_object(data: bytes) -> dict[str, Any] | None:
    """Returns the object that a JSON file holds; None where it holds anything else."""
    try:
        value = parse_json(data)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
