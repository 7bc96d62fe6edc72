"""Which files of a run's folder are captioner's, local or in a store.

``ROOT/runs/RUN_ID`` carries the marker that ``outputs`` describes, with paths such as
``captions/part-00000.parquet``. Stores cannot append to a file, so the marker is written as a whole,
before the first of the files that it newly lists. ROOT itself may be any folder.

Nothing here needs Beam or TensorFlow.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
from pyarrow import fs as pafs

from captioner_core.errors import CaptionerError
from captioner_core.io import outputs, storage
from captioner_core.tables import layout
from captioner_core.tables.layout import RunLayout

KIND = "run"
REPORT = "report/index.html"
_OWNER = "owner.json"
_ATTEMPT = re.compile("[0-9a-f]{32}")
_PART = re.compile(rf"({'|'.join(layout.TABLES)})/part-\d{{5,}}\.parquet")
_MANIFEST_KEYS = ("schema_version", "run_id", "stages", "counts", "options", "versions")


def check_run_output(run: RunLayout, inputs: Mapping[str, Sequence[str]] | None = None) -> set[str]:
    """Refuses, before any work, a run's folder that captioner may not write to; changes nothing.

    Args:
      run: where the run is to be written.
      inputs: what is read, by the option that names it; see ``check_inputs_outside``.

    Returns:
      The paths, below the run's folder, of the files that captioner made in it.

    Raises:
      CaptionerError: the root is no folder and cannot become one; the run's folder or a folder in it is a
        link; it holds files that captioner did not make where its own belong; or it holds an input.
    """
    local = _local_path(run.run_dir)
    if local is not None:
        _check_local(run, local)
    check_inputs_outside(run, inputs or {})
    own = _own_files(run.run_dir, run.run_id)
    _check_strangers(run.run_dir, own)
    return own


def check_inputs_outside(
    run: RunLayout, inputs: Mapping[str, Sequence[str]], own: Collection[str] = ()
) -> None:
    """Refuses inputs that lie in a run's folder, which is about to be replaced.

    Args:
      run: that is to be written.
      inputs: paths and URIs, by the option that names them.
      own: the run's own tables that stay as they are and may be read.

    Raises:
      CaptionerError: an input lies there.
    """
    for option, places in inputs.items():
        for place in places:
            if place.rstrip("/") not in own and is_in_folder(place, run.run_dir):
                raise CaptionerError(
                    f"{option} {place!r} lies in {run.run_dir!r}, the run that would be replaced; name another --run-id"
                )


def is_same_location(one: str, other: str) -> bool:
    """Returns whether two paths or URIs name the same file or folder."""
    return is_in_folder(one, other) and is_in_folder(other, one)


def is_in_folder(place: str, folder: str) -> bool:
    """Returns whether a path or URI is a folder or lies below it."""
    if not storage.is_remote(place) and not storage.is_remote(folder):
        return outputs.is_same_or_below(place, _local_path(folder) or folder)
    if not (storage.is_remote(place) and storage.is_remote(folder)):
        return False
    return f"{place.rstrip('/')}/".startswith(f"{folder.rstrip('/')}/")


def _local_path(uri: str) -> str | None:
    """Returns the local path of a URI; None for one in a store."""
    return None if storage.is_remote(uri) else storage.resolve(uri)[1]


def _check_local(run: RunLayout, run_dir: str) -> None:
    """Refuses links and files where the run's folders belong."""
    root = os.path.dirname(os.path.dirname(run_dir))
    outputs.check_reachable(root, "--output")
    inside = (*layout.TABLES, "report", layout.STAGING)
    for path in (
        os.path.dirname(run_dir),
        run_dir,
        *(os.path.join(run_dir, name) for name in inside),
    ):
        if os.path.islink(path):
            raise CaptionerError(
                f"{path!r} is a link, and captioner writes and deletes through none; "
                "remove the link, or name another --output or --run-id"
            )
        if os.path.lexists(path) and not os.path.isdir(path):
            raise CaptionerError(
                f"{path!r} is not a folder, and captioner did not make it; "
                "move it away, or name another --output or --run-id"
            )
        if os.path.isdir(path):
            outputs.check_reachable(path, "folder")


def _own_files(run_dir: str, run_id: str) -> set[str]:
    """Returns what the marker lists, or the files of a run that a version without markers made.

    Raises:
      CaptionerError: the folder holds files and is no run of captioner's.
    """
    what = f"run folder {run_dir!r}"
    names = [
        name for name in _names(run_dir) if not outputs.is_temporary_name(name, outputs.MARKER)
    ]
    if outputs.MARKER in names:
        return _listed_files(run_dir)
    if layout.MANIFEST in names and _is_manifest(_read(run_dir, layout.MANIFEST), run_id):
        return _earlier_files(run_dir)
    if names:
        raise CaptionerError(
            f"{what} holds files that captioner did not make, such as {min(names)!r}; "
            "name another --run-id, or move them away"
        )
    return set()


def _listed_files(run_dir: str) -> set[str]:
    """Returns the files that the marker lists, of those that a run can have."""
    listed = outputs.parse_marker(_read(run_dir, outputs.MARKER), KIND, f"run folder {run_dir!r}")
    return {path for path in listed if path in (layout.MANIFEST, REPORT) or _PART.fullmatch(path)}


def _read(run_dir: str, name: str) -> bytes:
    _check_plain(run_dir, name)
    return storage.read_bytes(layout.join(run_dir, name))


def _check_plain(run_dir: str, path: str) -> None:
    """Refuses a local path in a run's folder that is there and is a link, a folder or a device.

    Raises:
      CaptionerError: it is.
    """
    local = _local_path(layout.join(run_dir, path))
    if (
        local is not None
        and os.path.lexists(local)
        and (os.path.islink(local) or not os.path.isfile(local))
    ):
        raise in_the_way(run_dir, path)


def _is_manifest(data: bytes, run_id: str | None = None) -> bool:
    """Returns whether a file is the manifest of a run of this name, or of any where None."""
    manifest = outputs.parse_object(data)
    if manifest is None or any(key not in manifest for key in _MANIFEST_KEYS):
        return False
    return run_id is None or bool(manifest["run_id"] == run_id)


def _earlier_files(run_dir: str) -> set[str]:
    """Returns the files that a version without markers wrote, by their exact names."""
    folders = {
        folder: _names(layout.join(run_dir, folder)) for folder in (*layout.TABLES, "report")
    }
    paths = {f"{folder}/{name}" for folder, names in folders.items() for name in names}
    return {layout.MANIFEST, *(path for path in paths if path == REPORT or _PART.fullmatch(path))}


def _check_strangers(run_dir: str, own: set[str]) -> None:
    """Refuses somebody else's files where a run's own files belong or would be read as its rows.

    Raises:
      CaptionerError: there is one; the line names it.
    """
    files = [layout.MANIFEST] if layout.MANIFEST in _names(run_dir) else []
    for table in layout.TABLES:
        names = _names(layout.join(run_dir, table))
        files += [
            f"{table}/{name}" for name in names if name.endswith(".parquet") and name[0] not in "._"
        ]
    for path in files:
        if path not in own:
            raise in_the_way(run_dir, path)
    for path in own:
        _check_plain(run_dir, path)


def in_the_way(run_dir: str, path: str) -> CaptionerError:
    """Returns the error that somebody else's file lies where captioner would write or read."""
    return CaptionerError(
        f"run folder {run_dir!r} holds {path!r}, which captioner did not make and leaves as it is; "
        "move it away or name another --run-id"
    )


def _names(folder: str) -> list[str]:
    """Returns the names in a folder, local or in a store; none where it is not there."""
    file_system, path = storage.resolve(folder)
    try:
        found = file_system.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    except (OSError, pa.ArrowException) as error:
        raise CaptionerError(
            f"folder {folder!r} cannot be listed ({storage.first_line(error)}); check address and permissions"
        ) from error
    return sorted(item.base_name for item in found if item.base_name)


def claim_run(run: RunLayout) -> None:
    """Makes a run's folder captioner's own, and removes what killed processes left in it.

    Raises:
      CaptionerError: see ``check_run_output``.
    """
    own = check_run_output(run)
    local = _local_path(run.run_dir)
    if local is not None:
        outputs.make_folders(local, f"run folder {run.run_dir!r}")
    if outputs.MARKER not in _names(run.run_dir):
        write_marker(run.run_dir, own)
    for folder, names in (
        (run.run_dir, (outputs.MARKER, layout.MANIFEST)),
        (run.table("report"), ("index.html",)),
    ):
        for found in _names(folder):
            if any(outputs.is_temporary_name(found, name) for name in names):
                storage.delete(layout.join(folder, found))
    delete_staging(run)


def write_marker(run_dir: str, files: Iterable[str]) -> None:
    """Lists files as captioner's; must come before the first of them is written."""
    storage.write_text(
        layout.join(run_dir, outputs.MARKER), outputs.format_marker(KIND, files).decode("ascii")
    )


def delete_staging(run: RunLayout) -> None:
    """Deletes what all attempts at writing a run have staged; somebody else's files beside it stay."""
    for name in _names(run.all_staging):
        if name == _OWNER or outputs.is_temporary_name(name, _OWNER) or _ATTEMPT.fullmatch(name):
            storage.delete(layout.join(run.all_staging, name))
    remove_empty_folder(run.all_staging)


def abandon_run(run: RunLayout) -> None:
    """Removes what an attempt has staged, so that the run is as it was before the attempt."""
    owner: Any = None
    with contextlib.suppress(OSError, ValueError):
        owner = storage.read_json(run.owner)
    if not isinstance(owner, dict) or owner.get("attempt") != run.attempt:
        return
    delete_staging(run)
    if _names(run.run_dir) == [outputs.MARKER]:
        storage.delete(layout.join(run.run_dir, outputs.MARKER))
        remove_empty_folder(run.run_dir)


def remove_empty_folder(uri: str) -> None:
    """Removes a folder if nothing is in it.

    Stores have no folders, but pyarrow's client for S3 leaves an empty object in a folder's place when
    the last file in it is deleted.
    """
    local = _local_path(uri)
    if local is None:
        if not _names(uri):
            storage.delete(uri)
    elif not os.path.islink(local):
        with contextlib.suppress(OSError):
            os.rmdir(local)


def claim_report(run_dir: str) -> None:
    """Lists the report as captioner's, before it is written.

    A run of an earlier version has no marker and gets none here: its report is known by its name.

    Raises:
      CaptionerError: a report is there that captioner did not make, or the report's folder is a link.
    """
    local = _local_path(layout.join(run_dir, "report"))
    if local is not None and os.path.islink(local):
        raise in_the_way(run_dir, "report")
    if outputs.MARKER not in _names(run_dir):
        check_report(
            run_dir,
            _earlier_files(run_dir) if _is_manifest(_read(run_dir, layout.MANIFEST)) else set(),
        )
        return
    own = _listed_files(run_dir)
    check_report(run_dir, own)
    if REPORT not in own:
        write_marker(run_dir, {*own, REPORT})


def check_report(run_dir: str, own: set[str]) -> None:
    """Refuses a report that captioner did not make.

    Raises:
      CaptionerError: it is there.
    """
    _check_plain(run_dir, REPORT)
    if REPORT not in own and "index.html" in _names(layout.join(run_dir, "report")):
        raise in_the_way(run_dir, REPORT)
