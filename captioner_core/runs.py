"""How a stage's output becomes part of a run: staged, then committed, the manifest last.

A stage writes into ``ROOT/runs/RUN_ID/_staging``. Committing it removes the manifest,
withdraws what the stage replaces, moves the staged files to their places and writes the
manifest again. Whatever the moment at which that is cut off, the run has either its old
tables and manifest, or no manifest, which readers take for unfinished; running the stage
again mends it. No step needs a rename of more than one file.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from captioner_core import layout, storage
from captioner_core.errors import CaptionerError
from captioner_core.layout import RunLayout
from captioner_core.schemas import SCHEMA_VERSION

Manifest = dict[str, Any]

_PACKAGES = ("apache-beam", "tensorflow", "keras", "numpy", "pillow", "pyarrow", "spacy")


def new_manifest(run: RunLayout) -> Manifest:
    """The manifest of a run in which nothing is done yet."""
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": run.run_id,
        "created_utc": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "stages": {},
        "counts": {},
        "options": {},
        "versions": {
            "captioner": _version("captioner"),
            "python": platform.python_version(),
            **{name: _version(name) for name in _PACKAGES},
        },
    }


def read_manifest(run_dir: str) -> Manifest:
    """The manifest of a finished run.

    Raises:
      CaptionerError: there is none, so the run is missing or not complete.
    """
    uri = layout.join(run_dir, "manifest.json")
    if not storage.exists(uri):
        raise CaptionerError(
            f"run {run_dir!r} has no manifest.json: it is missing or not complete; run it (again) first"
        )
    try:
        manifest = storage.read_json(uri)
    except ValueError as error:
        raise CaptionerError(f"run {run_dir!r}: manifest.json is not JSON ({error}); run it again") from error
    if not isinstance(manifest, dict):
        raise CaptionerError(f"run {run_dir!r}: manifest.json is not an object; run it again")
    return manifest


def manifest_to_extend(run: RunLayout, captions: Sequence[str]) -> Manifest:
    """The manifest that matching adds to: the finished run that the captions are of, else a new one.

    Only where the captions matched are this run's own do its tables stay true beside the matches.
    """
    if list(captions) == [run.table(layout.CAPTIONS)] and storage.exists(run.manifest):
        return read_manifest(run.run_dir)
    return new_manifest(run)


def prepare_staging(run: RunLayout) -> None:
    """Empties the staging folder, so that nothing of a run cut off earlier is committed."""
    storage.delete(run.staging)


def commit_stage(
    run: RunLayout,
    manifest: Manifest,
    stage: str,
    *,
    wall_time_s: float,
    options: Mapping[str, Any],
    counts: Mapping[str, int] | None = None,
    facts: Mapping[str, Any] | None = None,
    complete: bool = True,
) -> Manifest:
    """Makes the staged tables of a stage part of the run.

    Args:
      run: where.
      manifest: what is known of the run's earlier stages; tables of no stage in it are withdrawn.
      stage: one of ``layout.STAGE_TABLES``.
      wall_time_s: how long the stage took.
      options: what it was asked for.
      counts: what it counted beside the rows of its tables.
      facts: more for the manifest, such as the model.
      complete: False where more stages follow at once; no manifest is written then.

    Returns:
      The manifest with this stage in it.
    """
    staged = {name: storage.list_parts(run.staged_table(name)) for name in layout.STAGE_TABLES[stage]}
    rows = {name: sum(map(storage.row_count, parts)) for name, parts in staged.items()}
    storage.delete(run.manifest)
    storage.delete(run.table("report"))
    earlier = [name for name in manifest["stages"] if name != stage]
    kept = {table for name in earlier for table in layout.STAGE_TABLES[name]}
    for name in layout.TABLES:
        if name not in kept:
            storage.delete(run.table(name))
    for name, parts in staged.items():
        for number, part in enumerate(parts):
            storage.move(part, layout.join(run.table(name), f"part-{number:05d}.parquet"))
    storage.delete(run.staging)
    manifest = {
        **manifest,
        "stages": {**manifest["stages"], stage: {"wall_time_s": round(wall_time_s, 3)}},
        "counts": {**manifest["counts"], **(counts or {}), **rows},
        "options": {**manifest["options"], **options},
        **(facts or {}),
    }
    if complete:
        finish(run, manifest)
    return manifest


def finish(run: RunLayout, manifest: Manifest) -> None:
    """Writes the manifest, which makes the run complete."""
    storage.write_json(run.manifest, manifest)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
