"""Output folders: may captioner write to this folder, and how do new files get into it?"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path, PurePosixPath

from captioner_core.errors import CaptionerError
from captioner_core.io.json_text import parse_object
from captioner_core.io.outputs.marker import (
    MARKER,
    format_marker,
    format_marker_line,
    parse_marker,
    read_marker,
)
from captioner_core.io.outputs.paths import (
    Inputs,
    check_not_input,
    check_reachable,
    check_writable,
    error_reason,
    make_folders,
)
from captioner_core.io.temporary_names import is_temporary_name, temporary_name

STAGING = ".captioner-new"
"""Folder, inside an output folder, in which new files wait until they are all complete."""

Adopt = Callable[[Path], "set[str] | None"]
"""Recognizes a folder that an earlier version made without a marker.

It is called with the folder and returns the paths that captioner made there, relative to the
folder. For any other folder it returns None.
"""


def check_output_folder(
    path: str | os.PathLike[str],
    *,
    kind: str,
    option: str = "--output",
    inputs: Inputs | None = None,
    adopt: Adopt | None = None,
) -> set[str]:
    """Refuses, before any work, a folder that captioner may not write to; changes nothing.

    Args:
      path: the folder, which need not exist.
      kind: what the folder will hold, such as ``dataset``.
      option: option that names the folder, for error messages.
      inputs: what the command reads; the folder must not be or contain any of them.
      adopt: recognizes a folder that an earlier version made without a marker.

    Returns:
      The paths in the folder that captioner made. Empty if the folder is empty or missing.

    Raises:
      CaptionerError: the folder contains files but was not made by captioner, holds another kind,
        is or contains an input, or cannot be written to.
    """
    check_reachable(path, option)
    check_not_input(path, option, inputs or {})
    folder = Path(os.path.realpath(path))
    label = f"{option} {os.fspath(path)!r}"
    if not folder.exists():
        return set()
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise CaptionerError(
            f"{label} cannot be read ({error_reason(error)}); correct its permissions"
        ) from error
    if MARKER in names:
        return parse_marker(read_marker(folder, label), kind, label)
    # A killed process may have left the temporary file of a marker that never came to be.
    other_names = sorted(name for name in names if not is_temporary_name(name, MARKER))
    if not other_names:
        return set()
    adopted = adopt(folder) if adopt is not None else None
    if adopted is None:
        raise CaptionerError(
            f"{label} contains files that captioner did not make, such as {other_names[0]!r}; name "
            "a folder that does not exist, is empty, or was made by captioner"
        )
    return adopted


def earlier_files(
    folder: Path, *, files: Sequence[str], described_by: str, keys: Sequence[str]
) -> set[str] | None:
    """Returns the files of a folder that an earlier version made; None for any other folder.

    Earlier versions did not list their files in a marker, so the names and one content must do.
    With all arguments but the first, this is an ``Adopt``.

    Args:
      folder: the folder to look at.
      files: names that the folder must hold, as regular files, and no others.
      described_by: name of the file that holds a JSON object.
      keys: keys that this object must have.
    """
    if sorted(os.listdir(folder)) != sorted(files):
        return None
    if not all(_is_regular_file(folder / name) for name in files):
        return None
    described = parse_object((folder / described_by).read_bytes())
    return set(files) if described is not None and described.keys() >= set(keys) else None


class OutputFolder:
    """A local folder that captioner writes; made by ``claim``.

    The usual order of calls is ``claim``, ``stage`` for each new file, and ``publish``. Staged
    files leave the present content of the folder as it is. ``publish`` then moves them to their
    final paths and deletes the other files that captioner made earlier.

    All paths of files are relative to the folder, with ``/`` between their parts.

    Args:
      path: the folder, with links resolved.
      kind: what the folder holds, such as ``dataset``.
      label: option and folder, for error messages.
      listed: paths that the marker lists.
      is_new: whether the folder did not exist before.

    Attributes:
      path: the folder, with links resolved.
    """

    def __init__(self, path: Path, kind: str, label: str, listed: set[str], is_new: bool) -> None:
        self.path = path
        self._kind = kind
        self._label = label
        self._listed = listed
        self._is_new = is_new
        self._marker_fd = -1  # File descriptor that appends to the marker, or -1.

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
        """Makes a folder captioner's own; it must be missing, empty, or captioner's already.

        Deletes the staged files that a killed process left behind.

        Args:
          path: the folder.
          kind: what the folder will hold, such as ``dataset``.
          option: option that names the folder, for error messages.
          inputs: what the command reads; the folder must not be or contain any of them.
          adopt: recognizes a folder that an earlier version made without a marker.

        Raises:
          CaptionerError: see ``check_output_folder``.
        """
        listed = check_output_folder(path, kind=kind, option=option, inputs=inputs, adopt=adopt)
        real_path = Path(os.path.realpath(path))
        label = f"{option} {os.fspath(path)!r}"
        folder = cls(real_path, kind, label, listed, is_new=not real_path.exists())
        make_folders(real_path, label)
        for name in os.listdir(real_path):
            if is_temporary_name(name, MARKER) and _is_regular_file(real_path / name):
                (real_path / name).unlink()
        folder._rewrite_marker()
        folder._discard_staged()
        return folder

    def has_file(self, relative: str) -> bool:
        """Returns whether captioner's file exists, and neither it nor a folder above is a link."""
        return relative in self._listed and self._is_own_file(relative)

    def is_staged(self, relative: str) -> bool:
        """Returns whether a new file for this path is staged."""
        return f"{STAGING}/{relative}" in self._listed

    def check_no_conflicts(self, relatives: Iterable[str]) -> None:
        """Refuses, before anything is changed, paths that are occupied by somebody else's files.

        Args:
          relatives: paths at which files will be written.

        Raises:
          CaptionerError: a file, folder or link that captioner did not make occupies a path, or a
            folder that must be changed cannot be written to.
        """
        parents = {str(PurePosixPath(relative).parent) for relative in (*relatives, *self._listed)}
        for relative in relatives:
            self._check_target(relative)
        for parent in sorted(parents):
            folder = self.path / parent
            if not self._first_link_above(f"{parent}/x") and folder.is_dir():
                check_writable(str(folder), f"{self._label}: folder {parent!r}")

    def stage(self, relative: str) -> Path:
        """Returns the path to write a new file to; ``publish`` later moves it to ``relative``.

        Raises:
          CaptionerError: somebody else's file or link occupies the path in the staging folder.
        """
        staged = self.reserve(f"{STAGING}/{relative}")
        # A file that a killed process left here may be a hard link to one of the user's pictures.
        staged.unlink(missing_ok=True)
        return staged

    @property
    def staging_folder(self) -> Path:
        """The folder that contains the staged files."""
        return self.path / STAGING

    def publish_file(self, relative: str) -> None:
        """Moves one staged file to its final path, where it replaces captioner's own file.

        Raises:
          CaptionerError: somebody else's file or link occupies the path.
        """
        os.replace(self.staging_folder / relative, self.reserve(relative))
        self._listed.discard(f"{STAGING}/{relative}")

    def remove(self, relative: str) -> None:
        """Deletes a file that captioner made.

        A link that now lies at the path, or that replaced a folder above it, is left alone.
        """
        if relative not in self._listed:
            return
        if self._is_own_file(relative):
            (self.path / relative).unlink()
        self._listed.discard(relative)

    def remove_all_except(self, relatives: Collection[str]) -> None:
        """Deletes captioner's other files, and those of its folders that are empty then.

        Staged files stay.

        Args:
          relatives: paths of the files to keep.
        """
        for path in self._listed_files(is_staged=False) - set(relatives):
            self.remove(path)
        self._remove_empty_folders("")

    def reserve(self, relative: str) -> Path:
        """Lists a path in the marker and returns it, for a caller that writes the file by itself.

        Creates the folders above it.

        Raises:
          CaptionerError: somebody else's file or link occupies the path.
        """
        path = self._make_parents(relative)
        self._check_target(relative)
        self._list(relative)
        return path

    def make_folder(self, relative: str) -> Path:
        """Returns a folder below this one, which is created unless it exists.

        Raises:
          CaptionerError: somebody else's file or link occupies the path.
        """
        return self._make_parents(f"{relative}/x").parent

    def publish(self, relatives: Iterable[str], completion_file: str) -> None:
        """Makes the folder contain exactly these of captioner's files, the staged ones being new.

        Readers regard a folder without ``completion_file`` as unfinished. This file is removed
        first and moved to its final path last. A process that is killed therefore leaves the old
        content or an unfinished folder, but never a mixture.

        Args:
          relatives: paths of all files that captioner's folder shall contain.
          completion_file: path of the file that is published last.

        Raises:
          CaptionerError: somebody else's file or link occupies a path; nothing has been changed.
        """
        wanted = sorted({*relatives} - {completion_file})
        self.check_no_conflicts([*wanted, completion_file])
        self.remove(completion_file)
        self.remove_all_except(wanted)
        for relative in (*filter(self.is_staged, wanted), completion_file):
            self.publish_file(relative)
        self.finish()

    def abandon(self) -> None:
        """Deletes the staged files, and the marker if no other file is listed.

        The folder is deleted too if it is empty then and did not exist before ``claim``.
        """
        self._discard_staged()
        if self._listed:
            return
        (self.path / MARKER).unlink(missing_ok=True)
        if self._is_new:
            with contextlib.suppress(OSError):  # Somebody may have put a file there meanwhile.
                self.path.rmdir()

    def finish(self) -> None:
        """Deletes the remaining staged files and rewrites the marker without missing paths."""
        self._discard_staged()
        self._rewrite_marker()
        self._close_marker()

    def _discard_staged(self) -> None:
        for path in self._listed_files(is_staged=True):
            self.remove(path)
        self._remove_empty_folders(f"{STAGING}/")

    def _listed_files(self, *, is_staged: bool) -> set[str]:
        return {
            path
            for path in self._listed
            if path.startswith(f"{STAGING}/") == is_staged and not path.endswith("/")
        }

    def _remove_empty_folders(self, below: str) -> None:
        """Deletes captioner's empty folders whose paths begin with ``below``, the deepest first."""
        folders = [path for path in self._listed if path.endswith("/") and path.startswith(below)]
        for path in sorted(folders, key=len, reverse=True):
            if self._first_link_above(path) or (self.path / path.rstrip("/")).is_symlink():
                continue
            with contextlib.suppress(OSError):  # The folder is not empty, or does not exist.
                os.rmdir(self.path / path)
                self._listed.discard(path)

    def _make_parents(self, relative: str) -> Path:
        """Creates the folders above a file, each listed before it is created.

        Returns:
          The path of the file.
        """
        path = self.path
        parts = PurePosixPath(relative).parts
        for count, part in enumerate(parts[:-1], start=1):
            path = path / part
            try:
                mode = os.lstat(path).st_mode
            except FileNotFoundError:
                self._list("/".join(parts[:count]) + "/")
                path.mkdir()
                continue
            if not stat.S_ISDIR(mode):
                raise self._conflict("/".join(parts[:count]))
        return path / parts[-1]

    def _check_target(self, relative: str) -> None:
        """Refuses a path that is occupied by something that captioner did not make."""
        if link := self._first_link_above(relative):
            raise self._conflict(link)
        try:
            mode = os.lstat(self.path / relative).st_mode
        except FileNotFoundError:
            return
        except NotADirectoryError:
            self._check_file_above(relative)
            return
        if stat.S_ISDIR(mode):
            self._check_folder_is_own(relative)
        elif relative not in self._listed or not stat.S_ISREG(mode):
            raise self._conflict(relative)

    def _check_file_above(self, relative: str) -> None:
        """Refuses a path below a file, unless captioner made that file.

        Captioner's file belongs to an older output. It is deleted before the new file is published.
        """
        parents = reversed(PurePosixPath(relative).parents)
        file = next(str(parent) for parent in parents if (self.path / parent).is_file())
        if file not in self._listed:
            raise self._conflict(file) from None

    def _check_folder_is_own(self, relative: str) -> None:
        """Refuses a folder at the path of a file, unless captioner made everything in it."""
        for folder, subfolder_names, file_names in os.walk(self.path / relative):
            parent = Path(folder).relative_to(self.path).as_posix()
            for path in [
                f"{parent}/",
                *(f"{parent}/{name}" for name in file_names),
                *(f"{parent}/{name}/" for name in subfolder_names),
            ]:
                if path not in self._listed:
                    raise self._conflict(path)

    def _is_own_file(self, relative: str) -> bool:
        return not self._first_link_above(relative) and _is_regular_file(self.path / relative)

    def _first_link_above(self, relative: str) -> str | None:
        path = ""
        for part in PurePosixPath(relative).parts[:-1]:
            path = f"{path}/{part}" if path else part
            if (self.path / path).is_symlink():
                return path
        return None

    def _conflict(self, relative: str) -> CaptionerError:
        return CaptionerError(
            f"{self._label} contains {relative!r}, which captioner did not make and will not "
            "change; move it away, or name another folder"
        )

    def _list(self, relative: str) -> None:
        """Appends a path to the marker, unless it is listed already."""
        if relative not in self._listed:
            os.write(self._marker_fd, format_marker_line(relative))
            self._listed.add(relative)

    def _rewrite_marker(self) -> None:
        """Writes the marker anew without missing paths, and opens it for appending."""
        self._listed = {path for path in self._listed if os.path.lexists(self.path / path)}
        temporary = self.path / temporary_name(MARKER)
        temporary.write_bytes(format_marker(self._kind, self._listed))
        os.replace(temporary, self.path / MARKER)
        self._close_marker()
        flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._marker_fd = os.open(self.path / MARKER, flags)

    def _close_marker(self) -> None:
        descriptor = self._marker_fd
        # The attribute is reset first, because the number may soon belong to another file.
        self._marker_fd = -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        self._close_marker()


def _is_regular_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False
