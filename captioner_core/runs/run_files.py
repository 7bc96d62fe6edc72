"""Keeps track of which files in a run's folder captioner made, on disk or in an object store.

Captioner replaces and deletes only its own files. It knows them by a marker file in
``ROOT/runs/RUN_ID``, in the format that ``outputs`` describes. The marker lists paths relative to
the run's folder, such as ``captions/part-00000.parquet``. Object stores cannot append to a file,
so the marker is always written as a whole, before the first of the files that it newly lists.
ROOT itself may be any folder.

Nothing here needs Beam or TensorFlow.
"""

import contextlib
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
from pyarrow import fs as pafs

from captioner_core.errors import CaptionerError, first_line
from captioner_core.io import outputs, storage
from captioner_core.tables import layout

KIND = "run"
REPORT = "report/index.html"
_OWNER = "owner.json"
_ATTEMPT = re.compile("[0-9a-f]{32}")
_PART = re.compile(rf"({'|'.join(layout.TABLES)})/part-\d{{5,}}\.parquet")
_MANIFEST_KEYS = ("schema_version", "run_id", "stages", "counts", "options", "versions")


def check_run_output(
    run: layout.RunLayout, inputs: Mapping[str, Sequence[str]] | None = None
) -> set[str]:
    """Refuses, before any work, a run's folder that captioner may not write to.

    This function only looks; it changes nothing.

    Args:
      run: the run that is to be written.
      inputs: the paths and URIs that are to be read, by the option that names them; see
        ``check_inputs_outside``.

    Returns:
      The paths of the files that captioner made in the run's folder, relative to it.

    Raises:
      CaptionerError: the root is not a folder and cannot become one; the run's folder or a folder
        in it is a link; a file that captioner did not make lies where a run's file belongs; or an
        input lies in the run's folder.
    """
    local = _local_path(run.run_dir)
    if local is not None:
        _check_local_folders(run, local)
    check_inputs_outside(run, inputs or {})
    owned = _owned_files(run.run_dir, run.run_id)
    _check_conflicts(run.run_dir, owned)
    return owned


def check_inputs_outside(
    run: layout.RunLayout, inputs: Mapping[str, Sequence[str]], kept: Collection[str] = ()
) -> None:
    """Refuses inputs that lie in the folder of the run that is about to be replaced.

    Args:
      run: the run that is to be written.
      inputs: paths and URIs, by the option that names them.
      kept: the run's own tables that are not replaced and may therefore be read.

    Raises:
      CaptionerError: an input lies in the run's folder.
    """
    for option, uris in inputs.items():
        for uri in uris:
            if uri.rstrip("/") not in kept and is_in_folder(uri, run.run_dir):
                raise CaptionerError(
                    f"{option} {uri!r} lies in {run.run_dir!r}, the run that would be replaced; "
                    "choose another --run-id"
                )


def is_same_location(first: str, second: str) -> bool:
    """Returns whether two paths or URIs name the same file or folder."""
    return is_in_folder(first, second) and is_in_folder(second, first)


def is_in_folder(uri: str, folder: str) -> bool:
    """Returns whether a path or URI is a folder itself or lies below it."""
    if not storage.is_remote(uri) and not storage.is_remote(folder):
        return outputs.is_same_or_below(uri, _local_path(folder) or folder)
    if not (storage.is_remote(uri) and storage.is_remote(folder)):
        return False
    return f"{uri.rstrip('/')}/".startswith(f"{folder.rstrip('/')}/")


def _local_path(uri: str) -> str | None:
    """Returns the local path of a URI; None if it is in an object store."""
    return None if storage.is_remote(uri) else storage.resolve(uri)[1]


def _check_local_folders(run: layout.RunLayout, run_dir: str) -> None:
    runs_folder = os.path.dirname(run_dir)
    outputs.check_reachable(os.path.dirname(runs_folder), "--output")
    names = (*layout.TABLES, "report", layout.STAGING)
    for path in (runs_folder, run_dir, *(os.path.join(run_dir, name) for name in names)):
        if os.path.islink(path):
            raise CaptionerError(
                f"{path!r} is a link, and captioner does not write or delete through links; "
                "remove the link, or choose another --output or --run-id"
            )
        if os.path.lexists(path) and not os.path.isdir(path):
            raise CaptionerError(
                f"{path!r} is not a folder, and captioner did not make it; "
                "move it away, or choose another --output or --run-id"
            )
        if os.path.isdir(path):
            outputs.check_reachable(path, "folder")


def _owned_files(run_dir: str, run_id: str) -> set[str]:
    """Returns the paths of captioner's files in a run's folder.

    They are listed in the marker. Versions before the marker left only the manifest, and their
    files are recognised by name.

    Raises:
      CaptionerError: the folder holds files, but captioner did not make it.
    """
    names = [
        name for name in _list_names(run_dir) if not outputs.is_temporary_name(name, outputs.MARKER)
    ]
    if outputs.MARKER in names:
        return _marked_files(run_dir)
    if layout.MANIFEST in names and _is_manifest(_read(run_dir, layout.MANIFEST), run_id):
        return _unmarked_files(run_dir)
    if names:
        raise CaptionerError(
            f"run folder {run_dir!r} holds files that captioner did not make, such as "
            f"{min(names)!r}; choose another --run-id, or move them away"
        )
    return set()


def _marked_files(run_dir: str) -> set[str]:
    """Returns the paths that the marker lists, without any that no run can have."""
    listed = outputs.parse_marker(_read(run_dir, outputs.MARKER), KIND, f"run folder {run_dir!r}")
    return {path for path in listed if _is_run_file(path)}


def _unmarked_files(run_dir: str) -> set[str]:
    """Returns the paths of the files of a run that was made by a version without markers."""
    paths = {layout.MANIFEST}
    for folder in (*layout.TABLES, "report"):
        paths.update(f"{folder}/{name}" for name in _list_names(layout.join(run_dir, folder)))
    return {path for path in paths if _is_run_file(path)}


def _is_run_file(path: str) -> bool:
    return path in (layout.MANIFEST, REPORT) or _PART.fullmatch(path) is not None


def _read(run_dir: str, name: str) -> bytes:
    _check_regular_file(run_dir, name)
    return storage.read_bytes(layout.join(run_dir, name))


def _check_regular_file(run_dir: str, path: str) -> None:
    """Refuses an existing local path that is a link, a folder or a device."""
    local = _local_path(layout.join(run_dir, path))
    if local is None or not os.path.lexists(local):
        return
    if os.path.islink(local) or not os.path.isfile(local):
        raise _conflict_error(run_dir, path)


def _is_manifest(data: bytes, run_id: str | None = None) -> bool:
    """Returns whether a file is a run's manifest.

    Args:
      data: the file's content.
      run_id: the run's id; None accepts the manifest of any run.
    """
    manifest = outputs.parse_object(data)
    if manifest is None or any(key not in manifest for key in _MANIFEST_KEYS):
        return False
    return run_id is None or bool(manifest["run_id"] == run_id)


def _check_conflicts(run_dir: str, owned: set[str]) -> None:
    """Refuses files of others that captioner would overwrite or read as a table's rows.

    Raises:
      CaptionerError: there is such a file; the message names it.
    """
    files = [layout.MANIFEST] if layout.MANIFEST in _list_names(run_dir) else []
    for table in layout.TABLES:
        names = _list_names(layout.join(run_dir, table))
        files += [
            f"{table}/{name}" for name in names if name.endswith(".parquet") and name[0] not in "._"
        ]
    for path in files:
        if path not in owned:
            raise _conflict_error(run_dir, path)
    for path in owned:
        _check_regular_file(run_dir, path)


def _conflict_error(run_dir: str, path: str) -> CaptionerError:
    return CaptionerError(
        f"run folder {run_dir!r} holds {path!r}, which captioner did not make and leaves as it is; "
        "move it away or choose another --run-id"
    )


def _list_names(folder: str) -> list[str]:
    """Returns the sorted names in a folder, local or in a store; none if it does not exist."""
    file_system, path = storage.resolve(folder)
    try:
        found = file_system.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    except (OSError, pa.ArrowException) as error:
        raise CaptionerError(
            f"folder {folder!r} cannot be listed ({first_line(error)}); "
            "check address and permissions"
        ) from error
    return sorted(item.base_name for item in found if item.base_name)


def claim_run(run: layout.RunLayout) -> None:
    """Marks a run's folder as captioner's and removes what killed processes left in it.

    Raises:
      CaptionerError: captioner may not write to the folder; see ``check_run_output``.
    """
    owned = check_run_output(run)
    local = _local_path(run.run_dir)
    if local is not None:
        outputs.make_folders(local, f"run folder {run.run_dir!r}")
    if outputs.MARKER not in _list_names(run.run_dir):
        write_marker(run.run_dir, owned)
    _delete_temporary_files(run.run_dir, (outputs.MARKER, layout.MANIFEST))
    _delete_temporary_files(run.table("report"), ("index.html",))
    delete_staging(run)


def _delete_temporary_files(folder: str, targets: Sequence[str]) -> None:
    for name in _list_names(folder):
        if any(outputs.is_temporary_name(name, target) for target in targets):
            storage.delete(layout.join(folder, name))


def write_marker(run_dir: str, files: Iterable[str]) -> None:
    """Lists files as captioner's. Call it before the first of them is written.

    Args:
      run_dir: the run's folder.
      files: the paths of all of captioner's files, relative to the folder.
    """
    text = outputs.format_marker(KIND, files).decode("ascii")
    storage.write_text(layout.join(run_dir, outputs.MARKER), text)


def delete_staging(run: layout.RunLayout) -> None:
    """Deletes what any attempt at writing a run has staged; files of others beside it stay."""
    for name in _list_names(run.all_staging):
        if name == _OWNER or outputs.is_temporary_name(name, _OWNER) or _ATTEMPT.fullmatch(name):
            storage.delete(layout.join(run.all_staging, name))
    remove_empty_folder(run.all_staging)


def abandon_run(run: layout.RunLayout) -> None:
    """Removes what an attempt has staged, so that the run is as it was before the attempt.

    Nothing is removed if another process has become the run's owner meanwhile.
    """
    owner: Any = None
    with contextlib.suppress(OSError, ValueError):
        owner = storage.read_json(run.owner)
    if not isinstance(owner, dict) or owner.get("attempt") != run.attempt:
        return
    delete_staging(run)
    if _list_names(run.run_dir) == [outputs.MARKER]:
        storage.delete(layout.join(run.run_dir, outputs.MARKER))
        remove_empty_folder(run.run_dir)


def remove_empty_folder(uri: str) -> None:
    """Removes a folder if it is empty.

    Object stores have no folders, but pyarrow's S3 client creates an empty object in a folder's
    place when the last file in it is deleted.
    """
    local = _local_path(uri)
    if local is None:
        if not _list_names(uri):
            storage.delete(uri)
    elif not os.path.islink(local):
        with contextlib.suppress(OSError):
            os.rmdir(local)


def claim_report(run_dir: str) -> None:
    """Lists a run's report as captioner's, before it is written.

    A run of an earlier version has no marker and gets none here: its report is known by its name.

    Raises:
      CaptionerError: there is a report that captioner did not make, or the report's folder is a
        link.
    """
    local = _local_path(layout.join(run_dir, "report"))
    if local is not None and os.path.islink(local):
        raise _conflict_error(run_dir, "report")
    if outputs.MARKER not in _list_names(run_dir):
        is_run = _is_manifest(_read(run_dir, layout.MANIFEST))
        check_report(run_dir, _unmarked_files(run_dir) if is_run else set())
        return
    owned = _marked_files(run_dir)
    check_report(run_dir, owned)
    if REPORT not in owned:
        write_marker(run_dir, {*owned, REPORT})


def check_report(run_dir: str, owned: Collection[str]) -> None:
    """Refuses to replace a report that captioner did not make.

    Args:
      run_dir: the run's folder.
      owned: the paths of captioner's files in it.

    Raises:
      CaptionerError: there is such a report.
    """
    _check_regular_file(run_dir, REPORT)
    if REPORT not in owned and "index.html" in _list_names(layout.join(run_dir, "report")):
        raise _conflict_error(run_dir, REPORT)
