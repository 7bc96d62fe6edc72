"""Beam's file systems behind pyarrow's interface, such as the client for Azure's store.

``captioner_core.io.storage`` uses them for every scheme for which pyarrow has no client of its
own. Paths are whole URIs.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from apache_beam.io.filesystem import BeamIOError, CompressionTypes, FileMetadata
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from pyarrow import fs as pafs


def file_system(uri: str) -> pafs.PyFileSystem:
    """Returns a file system that reaches all schemes that Beam knows.

    Args:
      uri: A URI of the wanted scheme.

    Raises:
      ValueError: Beam does not know the scheme, or a package for it is missing.
    """
    # Unless a job in this process has already set how to reach them.
    if FileSystems._pipeline_options is None:
        FileSystems.set_options(PipelineOptions([]))
    FileSystems.get_filesystem(uri)
    return pafs.PyFileSystem(_BeamFiles())


class _BeamFiles(pafs.FileSystemHandler):
    def get_type_name(self) -> str:
        """Names the kind of file system."""
        return "beam"

    def normalize_path(self, path: str) -> str:
        """Returns a path as it is, since it is a whole URI."""
        return path

    def get_file_info(self, paths: list[str]) -> list[pafs.FileInfo]:
        """Returns what is known of each path."""
        return [self._info(path) for path in paths]

    def _info(self, path: str) -> pafs.FileInfo:
        for found in _match(path):
            if found.path.rstrip("/") == path.rstrip("/"):
                return _file(found)
        below = _match(path.rstrip("/") + "/**", limit=1)
        return pafs.FileInfo(path, pafs.FileType.Directory if below else pafs.FileType.NotFound)

    def get_file_info_selector(self, selector: pafs.FileSelector) -> list[pafs.FileInfo]:
        """Lists a folder."""
        folder = selector.base_dir.rstrip("/") + "/"
        files = _match(folder + "**")
        if not files and not selector.allow_not_found:
            raise FileNotFoundError(selector.base_dir)
        if selector.recursive:
            return [_file(found) for found in files]
        names = {
            found.path.removeprefix(folder).partition("/")[0]
            for found in files
            if "/" in found.path[len(folder) :]
        }
        folders = [pafs.FileInfo(folder + name, pafs.FileType.Directory) for name in sorted(names)]
        return folders + [
            _file(found) for found in files if "/" not in found.path.removeprefix(folder)
        ]

    def create_dir(self, path: str, recursive: bool) -> None:
        """Creates a folder."""
        if not FileSystems.exists(path):
            FileSystems.mkdirs(path)

    def delete_dir(self, path: str) -> None:
        """Deletes a folder with its content."""
        FileSystems.delete([path.rstrip("/") + "/"])

    def delete_dir_contents(self, path: str, missing_dir_ok: bool) -> None:
        """Deletes the content of a folder."""
        FileSystems.delete([found.path for found in _match(path.rstrip("/") + "/**")])

    def delete_root_dir_contents(self) -> None:
        """Refuses to delete a whole file system."""
        raise NotImplementedError("deleting a whole file system is never meant")

    def delete_file(self, path: str) -> None:
        """Deletes a file."""
        FileSystems.delete([path])

    def move(self, src: str, dest: str) -> None:
        """Moves a file over another one."""
        # Some file systems rename over an existing file, others refuse.
        if FileSystems.exists(dest):
            FileSystems.delete([dest])
        FileSystems.rename([src], [dest])

    def copy_file(self, src: str, dest: str) -> None:
        """Copies a file."""
        FileSystems.copy([src], [dest])

    def open_input_stream(self, path: str) -> Any:
        """Opens a file for reading from its start."""
        return pa.PythonFile(_open(path), mode="r")

    def open_input_file(self, path: str) -> Any:
        """Opens a file for reading at any position."""
        return pa.PythonFile(_open(path), mode="r")

    def open_output_stream(self, path: str, metadata: Any) -> Any:
        """Creates a file for writing."""
        made = FileSystems.create(path, compression_type=CompressionTypes.UNCOMPRESSED)
        return pa.PythonFile(made, mode="w")

    def open_append_stream(self, path: str, metadata: Any) -> Any:
        """Refuses to append."""
        raise NotImplementedError("object stores cannot append")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BeamFiles)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None  # type: ignore[assignment]


def _open(path: str) -> Any:
    try:
        return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)
    except BeamIOError as error:
        if not FileSystems.exists(path):
            raise FileNotFoundError(path) from error
        raise


def _match(pattern: str, limit: int | None = None) -> list[FileMetadata]:
    (found,) = FileSystems.match([pattern], limits=None if limit is None else [limit])
    return sorted(found.metadata_list, key=lambda item: item.path)


def _file(found: FileMetadata) -> pafs.FileInfo:
    return pafs.FileInfo(found.path, pafs.FileType.File, size=found.size_in_bytes)
