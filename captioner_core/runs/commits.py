"""How a stage's output becomes part of a run: staged, then committed, the manifest last.

A stage writes into ``ROOT/runs/RUN_ID/_staging``. Committing it removes the manifest,
withdraws what the stage replaces, moves the staged files to their places and writes the
manifest again. Whatever the moment at which that is cut off, the run has either its old
tables and manifest, or no manifest, which readers take for unfinished; running the stage
again mends it. No step needs a rename of more than one file.

Only files that captioner made are replaced or deleted: ``run_files`` keeps the list of them.

Two processes that write one run at the same time don't mix: each stages for itself, the one
that began last owns the run, and the other finds that out before it commits anything.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import importlib.metadata
import itertools
import os
import platform
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import uuid4

from captioner_core.errors import CaptionerError
from captioner_core.io import storage
from captioner_core.runs import run_files
from captioner_core.tables import layout
from captioner_core.tables.layout import RunLayout
from captioner_core.tables.schemas import SCHEMA_VERSION

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
    uri = layout.join(run_dir, layout.MANIFEST)
    if not storage.exists(uri):
        raise CaptionerError(
            f"run {run_dir!r} has no manifest.json: it is missing or not complete; run it (again) first"
        )
    try:
        manifest = storage.read_json(uri)
    except ValueError as error:
        raise CaptionerError(
            f"run {run_dir!r}: manifest.json is not JSON ({error}); run it again"
        ) from error
    if not isinstance(manifest, dict):
        raise CaptionerError(f"run {run_dir!r}: manifest.json is not an object; run it again")
    return manifest


def manifest_of_stages(manifest: Manifest, stages: Sequence[str]) -> Manifest:
    """What a manifest says of some of its stages, for a run in which others are to be made anew."""
    gone = [name for name in manifest["stages"] if name not in stages]
    kept = {table for name in stages for table in layout.STAGE_TABLES[name]}
    tables = {table for name in gone for table in layout.STAGE_TABLES[name]} - kept
    return {
        **manifest,
        "stages": {name: value for name, value in manifest["stages"].items() if name in stages},
        "counts": {name: count for name, count in manifest["counts"].items() if name not in tables},
    }


def manifest_to_extend(run: RunLayout, captions: Sequence[str]) -> Manifest:
    """The manifest that matching adds to: the finished run that the captions are of, else a new one.

    Only where the captions matched are this run's own do its tables stay true beside the matches.
    """
    if list(captions) == [run.table(layout.CAPTIONS)] and storage.exists(run.manifest):
        return read_manifest(run.run_dir)
    return new_manifest(run)


def begin_attempt(run: RunLayout) -> RunLayout:
    """Makes this process the one that may commit the run, and removes what was cut off earlier.

    Returns:
      The layout to stage in.

    Raises:
      CaptionerError: captioner may not write to the run's folder; see ``run_files.check_run_output``.
    """
    run = dataclasses.replace(run, attempt=uuid4().hex)
    run_files.claim_run(run)
    storage.write_json(
        run.owner, {"attempt": run.attempt, "host": platform.node(), "pid": os.getpid()}
    )
    return run


@contextlib.contextmanager
def abandoned_on_refusal(run: RunLayout) -> Iterator[None]:
    """Removes what an attempt has staged if the block refuses its input, so that the run is as it was.

    Args:
      run: as ``begin_attempt`` returned it.
    """
    try:
        yield
    except CaptionerError:
        run_files.abandon_run(run)
        raise


def check_not_emptied(run: RunLayout, images: str, found: int, *, allow_empty: bool) -> None:
    """Refuses to replace a run that has images by one that has none: its folder may not be mounted.

    Args:
      run: about to be replaced.
      images: the images folder.
      found: how many images were found in it.
      allow_empty: whether the user wants an empty run all the same.

    Raises:
      CaptionerError: the run has images, none were found now, and that is not allowed.
    """
    if found or allow_empty or not storage.exists(run.manifest):
        return
    counts = read_manifest(run.run_dir).get("counts")
    had = counts.get("images_found") if isinstance(counts, dict) else None
    if isinstance(had, int) and had > 0:
        raise CaptionerError(
            f"--images {images!r} holds no image, and run {run.run_dir!r} that would be replaced has {had}; "
            "make sure that the folder is there and mounted, or give --allow-empty to replace the run by an empty one"
        )


def check_owner(run: RunLayout) -> None:
    """Makes sure that no other process has begun to write the run since this one did.

    Raises:
      CaptionerError: one has.
    """
    try:
        owner = storage.read_json(run.owner)
    except (FileNotFoundError, ValueError):  # storage that is lost is no other process
        owner = {}
    if owner.get("attempt") != run.attempt:
        by = (
            f"process {owner['pid']} on {owner['host']}"
            if {"pid", "host"} <= set(owner)
            else "another process"
        )
        raise CaptionerError(
            f"run {run.run_dir!r} was begun anew by {by}, so this one gave way and committed nothing; "
            "give two runs at the same time two --run-id"
        )


def stage_parts(run: RunLayout, table: str, step: str, parts: Sequence[str]) -> None:
    """Says which files of a staged table count, of those that a step of a job has written.

    Attempts that failed leave others behind. Said again, only what was said last counts.
    """
    storage.write_json(layout.join(run.staged_lists(table), f"{step}.json"), list(parts))


def staged_parts(run: RunLayout, table: str) -> list[str]:
    """The files of a staged table that count, in the order of their steps' names."""
    return [
        part
        for uri in storage.list_files(run.staged_lists(table), ".json")
        for part in storage.read_json(uri)
    ]


def commit_stage(
    run: RunLayout,
    manifest: Manifest,
    stage: str,
    *,
    wall_time_s: float,
    options: Mapping[str, Any],
    counts: Mapping[str, int] | None = None,
    facts: Mapping[str, Any] | None = None,
    tables: Sequence[str] | None = None,
    adds_to: Sequence[str] = (),
    complete: bool = True,
) -> Manifest:
    """Makes the staged tables of a stage part of the run.

    Args:
      run: where, as ``begin_attempt`` returned it.
      manifest: what is known of the run's earlier stages; tables of no stage in it are withdrawn.
      stage: one of ``layout.STAGE_TABLES``.
      wall_time_s: how long the stage took.
      options: what it was asked for.
      counts: what it counted beside the rows of its tables.
      facts: more for the manifest, such as the model.
      tables: those that the stage replaces; all of ``layout.STAGE_TABLES`` where None.
      adds_to: those of them whose rows so far stay, beside the staged ones.
      complete: False where more stages follow at once; no manifest is written then.

    Returns:
      The manifest with this stage in it.

    Raises:
      CaptionerError: another process has begun to write the run, or somebody else's file lies in the
        place of one of the run's; nothing is changed.
    """
    check_owner(run)
    own = run_files.check_run_output(run)
    tables = layout.STAGE_TABLES[stage] if tables is None else tables
    staged = {name: staged_parts(run, name) for name in tables}
    there = {name: storage.list_parts(run.table(name)) for name in adds_to}
    rows = {
        name: sum(map(storage.row_count, (*staged[name], *there.get(name, ())))) for name in tables
    }
    earlier = [name for name in manifest["stages"] if name != stage]
    kept = {table for name in earlier for table in layout.STAGE_TABLES[name]} - set(tables) | set(
        adds_to
    )
    moves = [
        move
        for name, parts in staged.items()
        for move in _moves(run, name, parts, taken=own if name in kept else ())
    ]
    new = {move.path for move in moves} | {layout.MANIFEST}
    run_files.write_marker(
        run.run_dir, own | new
    )  # before the first deletion, so that it is right at any moment
    storage.delete(run.manifest)
    gone = {path for path in own if path.partition("/")[0] not in kept} - {layout.MANIFEST}
    for path in sorted(gone):
        storage.delete(layout.join(run.run_dir, path))
    for name in ("report", *layout.TABLES):
        if name not in kept:
            run_files.remove_empty_folder(run.table(name))
    for move in moves:
        storage.move(move.staged, layout.join(run.run_dir, move.path))
    run_files.delete_staging(run)
    run_files.write_marker(run.run_dir, (own - gone) | new)
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


class _Move(NamedTuple):
    """A staged file, and its path below the run's folder once it is committed."""

    staged: str
    path: str


def _moves(run: RunLayout, table: str, parts: Sequence[str], taken: Collection[str]) -> list[_Move]:
    """Returns where a table's staged files go, under numbers that no file which stays has."""
    names = (f"{table}/part-{number:05d}.parquet" for number in itertools.count())
    free = (name for name in names if name not in taken)
    return [_Move(part, path) for part, path in zip(parts, free, strict=False)]


def finish(run: RunLayout, manifest: Manifest) -> None:
    """Writes the manifest, which makes the run complete."""
    storage.write_json(run.manifest, manifest)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
