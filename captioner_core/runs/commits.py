"""Commits a stage's output to a run so that readers never see a half-written run.

A stage writes its tables into ``ROOT/runs/RUN_ID/_staging``. ``commit_stage`` then does the
following, in this order:

1. It deletes ``manifest.json``. Readers take a run without a manifest for unfinished.
2. It deletes the files that the stage replaces.
3. It moves the staged files into the run's folder.
4. It writes ``manifest.json`` again, as the very last file.

If the process dies at any moment, the run has either its old tables and its old manifest, or no
manifest. Running the stage again repairs it. No step renames more than one file at a time.

Only files that captioner made are replaced or deleted; ``run_files`` keeps the list of them.

Two processes that write the same run do not mix their rows: each stages its files in a folder of
its own, the process that began last owns the run, and the other one notices this before it
commits anything.
"""

import contextlib
import dataclasses
import datetime
import importlib.metadata
import itertools
import os
import platform
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict, cast
from uuid import uuid4

from captioner_core.errors import CaptionerError
from captioner_core.io import storage
from captioner_core.io.json_text import JsonObject
from captioner_core.runs import run_files
from captioner_core.tables import layout, schemas

_PACKAGES = ("apache-beam", "tensorflow", "keras", "numpy", "pillow", "pyarrow", "spacy")


class StageRecord(TypedDict):
    """A finished stage in a manifest: how long it took, in seconds."""

    wall_time_s: float


class ModelRecord(TypedDict):
    """The captioning model in a manifest: the folder that the user named, and the model's id."""

    path: str
    model_id: str


class EncoderRecord(TypedDict):
    """The text encoder in a manifest. Scores of encoders with other fingerprints differ."""

    name: str
    fingerprint: str


class ManifestMetadata(TypedDict, total=False):
    """The fields of a manifest that only some stages write.

    ``extract`` and ``caption`` write the collection of the run's own images, and how many files
    were passed over, by suffix. ``caption`` also writes the model. ``match`` writes the encoder
    and all collections that it matched.
    """

    collection: str
    passed_over_by_suffix: dict[str, int]
    model: ModelRecord
    encoder: EncoderRecord
    collections: list[str]


class Manifest(ManifestMetadata):
    """The content of ``manifest.json``.

    ``stages`` holds a record of each finished stage, by its name. ``counts`` holds the number of
    rows of each table and other counts, such as ``images_found``. ``options`` holds the options
    of all stages, and ``versions`` those of captioner, Python and the libraries.

    A manifest that was read from a file may lack fields or hold other types: ``read_manifest``
    only makes sure that it is a JSON object, and ``verify`` checks the rest.
    """

    schema_version: int
    run_id: str
    created_utc: str
    stages: dict[str, StageRecord]
    counts: dict[str, int]
    options: JsonObject
    versions: dict[str, str]


def new_manifest(run: layout.RunLayout) -> Manifest:
    """Returns the manifest of a run of which no stage has finished."""
    return {
        "schema_version": schemas.SCHEMA_VERSION,
        "run_id": run.run_id,
        "created_utc": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "stages": {},
        "counts": {},
        "options": {},
        "versions": {
            "captioner": _package_version("captioner"),
            "python": platform.python_version(),
            **{name: _package_version(name) for name in _PACKAGES},
        },
    }


def read_manifest(run_dir: str) -> Manifest:
    """Returns the manifest of a finished run.

    Args:
      run_dir: the run's folder, ``ROOT/runs/RUN_ID``.

    Raises:
      CaptionerError: there is no manifest, so the run is missing or not complete; or the file
        does not hold a JSON object.
    """
    uri = layout.join(run_dir, layout.MANIFEST)
    if not storage.exists(uri):
        raise CaptionerError(
            f"run {run_dir!r} has no manifest.json, so it is missing or not complete; run it again"
        )
    try:
        manifest = storage.read_json(uri)
    except ValueError as error:
        raise CaptionerError(
            f"run {run_dir!r}: manifest.json is not JSON ({error}); run it again"
        ) from error
    if not isinstance(manifest, dict):
        raise CaptionerError(f"run {run_dir!r}: manifest.json is not an object; run it again")
    return cast("Manifest", manifest)


def restrict_manifest(manifest: Manifest, stages: Collection[str]) -> Manifest:
    """Returns a manifest without the stages that are about to run again.

    Args:
      manifest: the manifest of a finished run.
      stages: the stages to keep. All others are dropped, with the row counts of their tables.
    """
    dropped_stages = manifest["stages"].keys() - set(stages)
    dropped_tables = layout.tables_of(dropped_stages) - layout.tables_of(stages)
    return {
        **manifest,
        "stages": {name: value for name, value in manifest["stages"].items() if name in stages},
        "counts": {
            name: count for name, count in manifest["counts"].items() if name not in dropped_tables
        },
    }


def manifest_to_extend(run: layout.RunLayout, captions: Sequence[str]) -> Manifest:
    """Returns the manifest to which a match stage adds its entry.

    The run's own manifest is extended only if exactly the run's own captions are matched. In any
    other case the run's captions would not be those that its matches are about, so matching
    starts a new manifest, and the commit removes the earlier tables.

    Args:
      run: the run that the matches are written to.
      captions: the captions tables whose images are the queries.
    """
    if list(captions) == [run.table(layout.CAPTIONS)] and storage.exists(run.manifest):
        return read_manifest(run.run_dir)
    return new_manifest(run)


def begin_attempt(run: layout.RunLayout) -> layout.RunLayout:
    """Makes this process the owner of a run and removes what earlier, killed processes left.

    Returns:
      The layout of the run, with a staging folder that only this attempt writes to.

    Raises:
      CaptionerError: captioner may not write to the run's folder; see
        ``run_files.check_run_output``.
    """
    run = dataclasses.replace(run, attempt=uuid4().hex)
    run_files.claim_run(run)
    owner = {"attempt": run.attempt, "host": platform.node(), "pid": os.getpid()}
    storage.write_json(run.owner, owner)
    return run


@contextlib.contextmanager
def abandon_on_refusal(run: layout.RunLayout) -> Iterator[None]:
    """Removes what an attempt has staged if the block raises a CaptionerError.

    The run is then as it was before the attempt.

    Args:
      run: the layout that ``begin_attempt`` returned.
    """
    try:
        yield
    except CaptionerError:
        run_files.abandon_run(run)
        raise


def check_not_emptied(run: layout.RunLayout, images: str, found: int, *, allow_empty: bool) -> None:
    """Refuses to replace a run that has images by an empty one.

    An images folder that is suddenly empty is often a disk that is not mounted.

    Args:
      run: the run that is about to be replaced.
      images: the images folder, for the message.
      found: the number of images found in the folder.
      allow_empty: whether the user accepts an empty run.

    Raises:
      CaptionerError: the run has images, the folder has none, and ``allow_empty`` is False.
    """
    if found or allow_empty or not storage.exists(run.manifest):
        return
    counts = read_manifest(run.run_dir).get("counts")
    earlier_count = counts.get("images_found") if isinstance(counts, dict) else None
    if isinstance(earlier_count, int) and earlier_count > 0:
        raise CaptionerError(
            f"--images {images!r} holds no image, but run {run.run_dir!r}, which would be "
            f"replaced, has {earlier_count}; make sure that the folder exists and is mounted, "
            "or give --allow-empty to replace the run by an empty one"
        )


def check_owner(run: layout.RunLayout) -> None:
    """Makes sure that no other process has begun to write the run since this one did.

    Args:
      run: the layout that ``begin_attempt`` returned.

    Raises:
      CaptionerError: another process has begun to write the run.
    """
    try:
        owner = storage.read_json(run.owner)
    except (FileNotFoundError, ValueError):
        owner = {}  # Another process may have committed already and removed the staging folder.
    if owner.get("attempt") == run.attempt:
        return
    is_named = {"pid", "host"} <= set(owner)
    by = f"process {owner['pid']} on {owner['host']}" if is_named else "another process"
    raise CaptionerError(
        f"run {run.run_dir!r} was taken over by {by}, so this process committed nothing; "
        "give runs that are made at the same time different --run-id values"
    )


def record_staged_parts(run: layout.RunLayout, table: str, step: str, parts: Sequence[str]) -> None:
    """Records which staged files belong to a table; files that are not recorded are ignored.

    Beam may run a bundle several times, and failed or repeated bundles leave files behind that
    must not be committed. A second call for the same step replaces the first.

    Args:
      run: the layout that ``begin_attempt`` returned.
      table: the table's name.
      step: the name of the pipeline step that wrote the files.
      parts: URIs of the files.
    """
    storage.write_json(layout.join(run.staged_lists(table), f"{step}.json"), list(parts))


def list_staged_parts(run: layout.RunLayout, table: str) -> list[str]:
    """Returns the recorded files of a staged table, in the order of the steps' names."""
    return [
        part
        for uri in storage.list_files(run.staged_lists(table), ".json")
        for part in storage.read_json(uri)
    ]


def commit_stage(
    run: layout.RunLayout,
    manifest: Manifest,
    stage: str,
    *,
    wall_time_s: float,
    options: Mapping[str, Any],
    counts: Mapping[str, int] | None = None,
    metadata: ManifestMetadata | None = None,
    tables: Sequence[str] | None = None,
    adds_to: Sequence[str] = (),
    complete: bool = True,
) -> Manifest:
    """Makes the staged tables of a stage part of the run.

    Args:
      run: the layout that ``begin_attempt`` returned.
      manifest: the manifest with the run's earlier stages. Tables that belong to none of these
        stages are deleted.
      stage: the stage that has finished, one of ``layout.STAGE_TABLES``.
      wall_time_s: how long the stage took, in seconds.
      options: the stage's options, for the manifest.
      counts: counts for the manifest, in addition to the number of rows of each table.
      metadata: the further fields of the manifest that the stage writes.
      tables: the tables that the stage replaces; None stands for all tables of the stage.
      adds_to: the tables, of those that the stage writes, that keep the rows they have.
      complete: whether the run is complete. False means that another stage follows immediately;
        no manifest is written then.

    Returns:
      The manifest with this stage added.

    Raises:
      CaptionerError: another process has begun to write the run, or a file that captioner did
        not make lies where one of the run's files belongs. Nothing has been changed.
    """
    check_owner(run)
    owned = run_files.check_run_output(run)
    tables = layout.STAGE_TABLES[stage] if tables is None else tables
    staged = {name: list_staged_parts(run, name) for name in tables}
    existing = {name: storage.list_parts(run.table(name)) for name in adds_to}
    rows = {
        name: sum(map(storage.row_count, (*parts, *existing.get(name, ()))))
        for name, parts in staged.items()
    }
    earlier_tables = layout.tables_of(name for name in manifest["stages"] if name != stage)
    kept = (earlier_tables - set(tables)) | set(adds_to)
    moves = [
        move
        for name, parts in staged.items()
        for move in _plan_moves(name, parts, taken=owned if name in kept else ())
    ]
    _replace_files(run, owned, kept, moves)
    manifest = {
        **manifest,
        "stages": {**manifest["stages"], stage: {"wall_time_s": round(wall_time_s, 3)}},
        "counts": {**manifest["counts"], **(counts or {}), **rows},
        "options": {**manifest["options"], **options},
        **(metadata or ManifestMetadata()),
    }
    if complete:
        write_manifest(run, manifest)
    return manifest


class _Move(NamedTuple):
    """A staged file and the path that it gets, relative to the run's folder."""

    staged: str
    path: str


def _plan_moves(table: str, parts: Sequence[str], taken: Collection[str]) -> list[_Move]:
    """Returns where a table's staged files go, avoiding the names of files that stay."""
    names = (f"{table}/part-{number:05d}.parquet" for number in itertools.count())
    free = (name for name in names if name not in taken)
    return [_Move(part, path) for part, path in zip(parts, free, strict=False)]


def _replace_files(
    run: layout.RunLayout, owned: set[str], kept: Collection[str], moves: Sequence[_Move]
) -> None:
    """Deletes the manifest and the run's outdated files, then moves the staged files in.

    Args:
      run: the layout that ``begin_attempt`` returned.
      owned: paths of captioner's files, relative to the run's folder.
      kept: the tables whose files stay.
      moves: the staged files.
    """
    added = {move.path for move in moves} | {layout.MANIFEST}
    outdated = {path for path in owned if path.partition("/")[0] not in kept} - {layout.MANIFEST}
    # The marker lists old and new files before the first deletion, so it is right at any moment.
    run_files.write_marker(run.run_dir, owned | added)
    storage.delete(run.manifest)
    for path in sorted(outdated):
        storage.delete(layout.join(run.run_dir, path))
    for folder in ("report", *layout.TABLES):
        if folder not in kept:
            run_files.remove_empty_folder(run.table(folder))
    for move in moves:
        storage.move(move.staged, layout.join(run.run_dir, move.path))
    run_files.delete_staging(run)
    run_files.write_marker(run.run_dir, (owned - outdated) | added)


def write_manifest(run: layout.RunLayout, manifest: Manifest) -> None:
    """Writes a run's manifest, which makes the run complete."""
    storage.write_json(run.manifest, manifest)


def _package_version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
