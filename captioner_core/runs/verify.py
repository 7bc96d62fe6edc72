"""Checks a finished run against every invariant of its tables.

``verify`` returns one line for each kind of breach. Each ``_check_...`` function covers one table
or one relation between tables; checks of tables that the run does not have yield nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from captioner_core.errors import CaptionerError, first_line
from captioner_core.io import storage
from captioner_core.io.junk import is_skipped_by_readers
from captioner_core.options import COMBINED
from captioner_core.runs import commits
from captioner_core.runs.identity import COLLECTIONS, collection_of_run, with_keys
from captioner_core.tables import layout
from captioner_core.tables.layout import (
    CAPTION,
    CAPTION_GROUPS,
    CAPTIONS,
    EXTRACT,
    FAILURES,
    FEATURES,
    MATCH,
    MATCH_INPUTS,
    MATCH_SUMMARY,
    MATCHES,
)
from captioner_core.tables.schemas import (
    COLLECTION_COLUMNS,
    ENGINE_COLUMNS,
    FEATURE_DIM,
    GENERATED,
    HUMAN,
    MATCHED,
    NO_MATCH,
    SCHEMA_VERSION,
    TABLE_SCHEMAS,
    UNCERTAIN,
)

_MAX_LISTED = 5
_TOLERANCE = 1e-6
_MANIFEST_FIELDS: dict[str, type] = {
    "schema_version": int,
    "run_id": str,
    "stages": dict,
    "counts": dict,
    "options": dict,
    "versions": dict,
}
_FEATURE_TYPES = (pa.list_(pa.float32(), FEATURE_DIM), pa.list_(pa.float16(), FEATURE_DIM))
# No check needs these columns, and they hold most of the bytes.
_UNREAD_COLUMNS = (
    "feature",
    "image_uri",
    "model_id",
    "backbone",
    "precision",
    "engine",
    "match_caption",
    "error_message",
)

Tables = dict[str, pd.DataFrame]
"""The rows of a run's tables by table name, with the key columns that ``with_keys`` adds."""


def verify(run_dir: str) -> list[str]:
    """Returns a line for each kind of breach; an empty list if the run keeps every invariant.

    Args:
      run_dir: the run's folder, ``ROOT/runs/RUN_ID``.

    Raises:
      CaptionerError: there is no such folder.
    """
    file_system, path = storage.resolve(run_dir)
    if file_system.get_file_info(path).type != pafs.FileType.Directory:
        raise CaptionerError(f"run {run_dir!r} is not a folder; name ROOT/runs/RUN_ID")
    try:
        manifest = commits.read_manifest(run_dir)
    except CaptionerError as error:
        return [str(error)]
    breaches = list(_check_manifest(manifest, PurePosixPath(path).name))
    if any(not isinstance(manifest.get(name), kind) for name, kind in _MANIFEST_FIELDS.items()):
        return breaches
    tables: Tables = {}
    run_collection = collection_of_run(manifest, run_dir) if COLLECTIONS in manifest else ""
    for name in _tables_of(manifest):
        frame, found = _read_table(run_dir, name, manifest, run_collection)
        breaches += found
        if frame is not None:
            tables[name] = frame
    for check in (
        _check_counts,
        _check_images,
        _check_features,
        _check_captions,
        _check_summary,
        _check_best_matches,
        _check_matches,
        _check_ranks,
        _check_groups,
        _check_inputs,
    ):
        breaches += check(tables, manifest)
    return [*breaches, *_check_files(run_dir, manifest)]


def _check_manifest(manifest: commits.Manifest, folder: str) -> Iterator[str]:
    """Checks the manifest without its counts.

    If a field is missing or has the wrong type, only the first such field is reported.
    """
    for name, kind in _MANIFEST_FIELDS.items():
        if not isinstance(manifest.get(name), kind):
            yield f"manifest.json has no {name}, or its type is wrong"
            return
    if manifest["schema_version"] != SCHEMA_VERSION:
        yield f"manifest.json: schema_version is {manifest['schema_version']}, not {SCHEMA_VERSION}"
    if manifest["run_id"] != folder:
        yield f"manifest.json: run_id is {manifest['run_id']!r}, the folder's name is {folder!r}"
    stages = manifest["stages"]
    if not stages:
        yield "manifest.json names no stage"
    for stage, record in stages.items():
        if stage not in layout.STAGE_TABLES:
            yield f"manifest.json: stage {stage!r} is none of {', '.join(layout.STAGE_TABLES)}"
        elif not (isinstance(record, dict) and _is_number(record.get("wall_time_s"), low=0)):
            yield f"manifest.json: stage {stage!r} has no wall_time_s"
    if not manifest["versions"]:
        yield "manifest.json names no versions"
    has_images = {EXTRACT, CAPTION} & stages.keys()
    if has_images and not isinstance(manifest["options"].get("images"), str):
        yield "manifest.json: options.images, the images folder, is missing"
    if CAPTION in stages and not isinstance(manifest.get("model"), dict):
        yield "manifest.json has no model"
    if MATCH in stages:
        yield from _check_match_metadata(manifest)


def _check_match_metadata(manifest: commits.Manifest) -> Iterator[str]:
    """Checks what the manifest says about the match stage."""
    encoder = manifest.get("encoder")
    if not (isinstance(encoder, dict) and encoder.get("name") and encoder.get("fingerprint")):
        yield "manifest.json has no encoder with name and fingerprint"
    for name, low in (("threshold", -1.0), ("top_k", 0.0)):
        if not _is_number(manifest["options"].get(name), low):
            yield f"manifest.json: options.{name} is missing or is not a number of {low:g} or more"


def _is_number(value: object, low: float) -> TypeGuard[float]:
    """Returns whether a value is a number of ``low`` or more."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= low


def _tables_of(manifest: commits.Manifest) -> list[str]:
    """Returns the tables that the run must have, in the order of ``layout.TABLES``."""
    written = layout.tables_of(manifest["stages"])
    return [name for name in layout.TABLES if name in written]


def _read_table(
    run_dir: str, name: str, manifest: commits.Manifest, run_collection: str
) -> tuple[pd.DataFrame | None, list[str]]:
    """Reads a table without its vectors.

    Args:
      run_dir: the run's folder.
      name: the table's name.
      manifest: the run's manifest.
      run_collection: the collection of the run's own images.

    Returns:
      The rows, or None if they cannot be checked, and the breaches found on the way.
    """
    uri = layout.join(run_dir, name)
    parts = storage.list_parts(uri)
    if not parts:
        return None, [f"table {name} holds no Parquet file"]
    fields = _expected_fields(name, manifest)
    breaches = dict.fromkeys(breach for part in parts for breach in _check_part(name, part, fields))
    if breaches:
        return None, list(breaches)
    columns = [field.name for field in fields if field.name not in _UNREAD_COLUMNS]
    try:
        table = storage.read_table(uri, columns)
    except (CaptionerError, pa.ArrowException, OSError) as error:
        return None, [f"table {name}: its rows can't be read ({first_line(error)})"]
    required = [field.name for field in fields if not field.nullable and field.name in columns]
    with_nulls = [column for column in required if table[column].null_count]
    if with_nulls:
        return None, [f"table {name}: column {column!r} holds nulls" for column in with_nulls]
    frame = with_keys(table, run_collection).to_pandas()
    differs = (frame.run_id != manifest["run_id"]) | (frame.schema_version != SCHEMA_VERSION)
    if differs.any():
        return frame, [f"table {name}: run_id or schema_version differs from the manifest's"]
    return frame, []


def _expected_fields(name: str, manifest: commits.Manifest) -> list[pa.Field]:
    """Returns the columns that a table must have; earlier versions lacked some."""
    optional: set[str] = set()
    if COLLECTIONS not in manifest:
        optional.update(COLLECTION_COLUMNS)
    if "engine" not in manifest["options"]:
        optional.update(ENGINE_COLUMNS)
    return [field for field in TABLE_SCHEMAS[name] if field.name not in optional]


def _check_part(name: str, part: str, expected: Iterable[pa.Field]) -> Iterator[str]:
    """Checks the columns, types and compression of one Parquet file.

    Every file is checked by itself, because a reader may read a single one.
    """
    file_system, path = storage.resolve(part)
    what = f"table {name}, {PurePosixPath(path).name}"
    try:
        with file_system.open_input_file(path) as stream:
            file = pq.ParquetFile(stream)
            schema = file.schema_arrow
            metadata = file.metadata
    except (pa.ArrowException, OSError) as error:
        yield f"{what}: can't be read as Parquet ({first_line(error)})"
        return
    for field in expected:
        position = schema.get_field_index(field.name)
        kinds = _FEATURE_TYPES if field.name == "feature" else (field.type,)
        if position < 0 or schema.field(position).type not in kinds:
            yield f"{what}: column {field.name!r} is missing or of another type than {field.type}"
    for group in (metadata.row_group(number) for number in range(metadata.num_row_groups)):
        for column in (group.column(number) for number in range(group.num_columns)):
            if column.compression != "ZSTD":
                yield f"{what}: its compression is {column.compression}, not ZSTD"
            # The footer shows whether there are nulls; reading a list column with nulls fails.
            is_feature = column.path_in_schema.startswith("feature.")
            if is_feature and column.num_values != group.num_rows * FEATURE_DIM:
                yield f"{what}: column 'feature' holds nulls"


def _list_ids(what: str, ids: Iterable[Any]) -> Iterator[str]:
    """Yields one line that names the first few ids; yields nothing if there are none.

    Args:
      what: the breach.
      ids: image ids, image keys or captions of the rows with the breach.
    """
    listed = sorted({str(value).replace("\0", " of ").removesuffix(" of ") for value in ids})
    if listed:
        more = f" and {len(listed) - _MAX_LISTED} more" if len(listed) > _MAX_LISTED else ""
        yield f"{what}: {', '.join(map(repr, listed[:_MAX_LISTED]))}{more}"


def _check_rules(table: str, ids: pd.Series[Any], rules: Mapping[str, object]) -> Iterator[str]:
    """Yields a line for each rule that is broken.

    Args:
      table: the table's name.
      ids: what names each row in messages.
      rules: for each breach, an array that says of each row whether it has the breach.
    """
    for what, broken in rules.items():
        yield from _list_ids(f"{table}: {what}", ids[np.asarray(broken, bool)])


def _is_no_cosine(scores: pd.Series[Any]) -> npt.NDArray[np.bool_]:
    """Returns which values are neither a cosine nor NaN, which stands for unknown."""
    values = scores.to_numpy(np.float64)
    broken: npt.NDArray[np.bool_] = ~np.isnan(values) & ~((values >= -1) & (values <= 1))
    return broken


def _is_no_sha256(values: pd.Series[Any]) -> pd.Series[Any]:
    return ~values.str.fullmatch("[0-9a-f]{64}").astype(bool)


def _check_counts(tables: Tables, manifest: commits.Manifest) -> Iterator[str]:
    """Checks that each table has as many rows as the manifest counts."""
    for name, frame in tables.items():
        counted = manifest["counts"].get(name)
        if counted != len(frame):
            yield f"manifest.json counts {counted} {name}, the table has {len(frame)} rows"


def _check_images(tables: Tables, manifest: commits.Manifest) -> Iterator[str]:
    """Checks that every image found became exactly one result or one failure.

    The result is a caption, or a row of features in a run that only extracted features.
    """
    stages = manifest["stages"]
    if not {CAPTION, EXTRACT} & stages.keys() or FAILURES not in tables:
        return
    found = manifest["counts"].get("images_found")
    failed = tables[FAILURES].image_id
    yield from _list_ids("failures: image twice", failed[failed.duplicated()])
    yield from _check_rules(
        FAILURES, failed, {"error_type is empty": tables[FAILURES].error_type.str.strip() == ""}
    )
    if not _is_number(manifest["counts"].get("files_passed_over"), low=0):
        yield "manifest.json: counts.files_passed_over is missing"
    for name in (CAPTIONS, FEATURES) if CAPTION in stages else (FEATURES,):
        if name not in tables:
            continue
        done = tables[name].image_id
        yield from _list_ids(f"{name}: image twice", done[done.duplicated()])
        yield from _list_ids(f"{name}: image also in failures", set(done) & set(failed))
        if found != len(done) + len(failed):
            yield f"{found} images found, but {len(done)} {name} + {len(failed)} failures"
    if CAPTIONS in tables and FEATURES in tables:
        both = tables[CAPTIONS].merge(
            tables[FEATURES], on="image_id", suffixes=("", "_of_features")
        )
        differs = both.image_sha256 != both.image_sha256_of_features
        yield from _list_ids(
            "captions: image_sha256 is not that of features", both.image_id[differs]
        )


def _check_features(tables: Tables, manifest: commits.Manifest) -> Iterator[str]:
    """Checks each row of the features table."""
    if FEATURES not in tables:
        return
    frame = tables[FEATURES]
    rules = {
        "width or height is below 1": (frame.width < 1) | (frame.height < 1),
        "image_sha256 is no sha256": _is_no_sha256(frame.image_sha256),
    }
    yield from _check_rules(FEATURES, frame.image_id, rules)


def _check_captions(tables: Tables, manifest: commits.Manifest) -> Iterator[str]:
    """Checks each row of the captions table."""
    if CAPTIONS not in tables:
        return
    frame = tables[CAPTIONS]
    rules = {
        "caption is empty": frame.caption.str.strip() == "",
        "log_prob is above 0 or not a number": ~(frame.log_prob <= 0),
        "unk_fraction is outside 0 to 1": ~frame.unk_fraction.between(0, 1),
        "n_tokens is negative": frame.n_tokens < 0,
        "image_text_score is outside -1 to 1": _is_no_cosine(frame.image_text_score),
        "confidence is outside 0 to 1": (frame.confidence < 0) | (frame.confidence > 1),
        "image_sha256 is no sha256": _is_no_sha256(frame.image_sha256),
        "source is neither generated nor human": ~frame.source.isin([GENERATED, HUMAN]),
    }
    yield from _check_rules(CAPTIONS, frame.image_id, rules)


def _check_summary(tables: Tables, manifest: commits.Manifest) -> Iterator[str]:
    """Checks that each captioned image has one summary row that agrees with its matches."""
    if MATCH_SUMMARY not in tables:
        return
    summary = tables[MATCH_SUMMARY]
    keys = summary.query_key
    above = summary.n_above_threshold
    written = summary.n_written
    yield from _list_ids("match_summary: image twice", keys[keys.duplicated()])
    if CAPTIONS in tables:
        captioned = set(tables[CAPTIONS].image_key)
        yield from _list_ids("captions: image without match_summary", captioned - set(keys))
        yield from _list_ids("match_summary: image not captioned", set(keys) - captioned)
    status = np.where(above > 0, MATCHED, NO_MATCH)
    # Images with an uncertain caption are not matched.
    status = np.where((above == 0) & (summary.status == UNCERTAIN), UNCERTAIN, status)
    rules = {
        "n_above_threshold is negative": above < 0,
        "status doesn't fit n_above_threshold": summary.status != status,
        "best_score is outside -1 to 1": _is_no_cosine(summary.best_score),
    }
    top_k = manifest["options"].get("top_k")
    if _is_number(top_k, low=0):
        rules["n_written is not min(n_above_threshold, top_k)"] = written != above.clip(upper=top_k)
    if MATCHES in tables:
        queries = tables[MATCHES].query_key
        yield from _list_ids("matches: image without match_summary", set(queries) - set(keys))
        match_counts = keys.map(queries.value_counts()).fillna(0)
        rules["n_written is not its number of matches"] = written != match_counts
    yield from _check_rules(MATCH_SUMMARY, keys, rules)


def _check_best_matches(tables: Tables, manifest: commits.Manifest) -> Iterator[str]:
    """Checks that the best match of a summary row is the match of rank 1.

    If an image has no match, its best score must be below the threshold.
    """
    if MATCH_SUMMARY not in tables or MATCHES not in tables:
        return
    first = tables[MATCHES][tables[MATCHES]["rank"] == 1]
    summary = tables[MATCH_SUMMARY].merge(
        first[["query_key", "match_key", "score"]], on="query_key"
    )
    is_close = (summary.best_score - summary.score).abs() <= _TOLERANCE  # False if either is NaN
    differs = (summary.best_match_key != summary.match_key) | ~is_close
    yield from _list_ids(
        "match_summary: best match is not the match of rank 1", summary.query_key[differs]
    )
    threshold = manifest["options"].get("threshold")
    if _is_number(threshold, low=-1):
        unmatched = tables[MATCH_SUMMARY][tables[MATCH_SUMMARY].n_above_threshold == 0]
        reached = unmatched.best_score >= threshold + _TOLERANCE
        what = "match_summary: best_score reaches the threshold, yet n_above_threshold is 0"
        yield from _list_ids(what, unmatched.query_key[reached])


def _check_matches(tables: Tables, manifest: commits.Manifest) -> Iterator[str]:
    """Checks each row of the matches table."""
    if MATCHES not in tables:
        return
    frame = tables[MATCHES]
    encoder = manifest.get("encoder")
    encoder_name = encoder.get("name") if isinstance(encoder, dict) else None
    rules = {
        "score is outside -1 to 1": ~frame.score.between(-1, 1),
        "feature_score is outside -1 to 1": _is_no_cosine(frame.feature_score),
        "image_text_score is outside -1 to 1": _is_no_cosine(frame.image_text_score),
        "an image matches itself": frame.query_key == frame.match_key,
        "match image twice for one query": frame.duplicated(["query_key", "match_key"]),
        "match_source is neither generated nor human": ~frame.match_source.isin([GENERATED, HUMAN]),
        "encoder is not the manifest's": frame.encoder != encoder_name,
    }
    threshold = manifest["options"].get("threshold")
    if _is_number(threshold, low=-1):
        reached = frame.score >= threshold - _TOLERANCE
        rules[f"score is below the threshold {threshold}"] = ~reached
    if manifest["options"].get("rank_by") != COMBINED:
        rules["rank_score is not the score"] = frame.rank_score != frame.score
    yield from _check_rules(MATCHES, frame.query_key, rules)


def _check_ranks(tables: Tables, manifest: commits.Manifest) -> Iterator[str]:
    """Checks that ranks run from 1 without gaps, by falling rank_score.

    Images with equal rank_score are ordered by their image ids, then by their collections.
    """
    if MATCHES not in tables:
        return
    frame = tables[MATCHES].sort_values(["query_key", "rank"], ignore_index=True)
    expected = frame.groupby("query_key").cumcount() + 1
    yield from _list_ids(
        "matches: ranks are not 1…n_written", frame.query_key[frame["rank"] != expected]
    )
    query = frame.query_key.to_numpy(object)
    score = frame.rank_score.to_numpy()
    match = frame.match_key.to_numpy(object)
    is_same_query = query[1:] == query[:-1]
    rises = is_same_query & (score[1:] > score[:-1])
    is_misplaced_tie = is_same_query & (score[1:] == score[:-1]) & (match[1:] < match[:-1])
    yield from _list_ids("matches: ranks are not in order of falling score", query[1:][rises])
    yield from _list_ids(
        "matches: equal scores are not in order of match_image_id", query[1:][is_misplaced_tie]
    )


def _check_groups(tables: Tables, manifest: commits.Manifest) -> Iterator[str]:
    """Checks that every query image is in one group of images with the same captions."""
    if CAPTION_GROUPS not in tables:
        return
    groups = tables[CAPTION_GROUPS]
    rules = {
        "n_images or n_captions is below 1": (groups.n_images < 1) | (groups.n_captions < 1),
        "names more images than it counts": groups.image_ids.map(len) > groups.n_images,
    }
    yield from _check_rules(CAPTION_GROUPS, groups.caption, rules)
    image_count = groups.n_images.sum()
    if MATCH_SUMMARY in tables:
        query_count = (tables[MATCH_SUMMARY].status != UNCERTAIN).sum()
        if image_count != query_count:
            yield f"caption_groups: {image_count} images, but match_summary has {query_count}"


def _check_inputs(tables: Tables, manifest: commits.Manifest) -> Iterator[str]:
    """Checks that the matched images are those that the run read."""
    if MATCH_INPUTS not in tables:
        return
    inputs = tables[MATCH_INPUTS]
    queries = set(inputs.image_key[inputs.side == "query"])
    index = set(inputs.image_key[inputs.side == "index"])
    if MATCH_SUMMARY in tables and queries != set(tables[MATCH_SUMMARY].query_key):
        yield "match_inputs: the query images are not those of match_summary"
    if MATCHES in tables:
        matched = set(tables[MATCHES].match_key)
        yield from _list_ids("match_inputs: match is not listed", matched - index)


def _check_files(run_dir: str, manifest: commits.Manifest) -> Iterator[str]:
    """Checks that there are no unfinished files and no tables without a stage.

    Files that every reader ignores, such as ``.DS_Store`` and ``_SUCCESS``, are no breach, unless
    they are what captioner itself leaves behind when it is interrupted.
    """
    file_system, path = storage.resolve(run_dir)
    tables = _tables_of(manifest)
    stray = []
    for item in file_system.get_file_info(pafs.FileSelector(path)):
        if item.base_name == layout.STAGING or item.base_name.endswith(".tmp"):
            stray.append(item.base_name)
        elif item.base_name in layout.TABLES and item.base_name not in tables:
            yield f"table {item.base_name} belongs to no stage in manifest.json"
    for name in tables:
        selector = pafs.FileSelector(layout.join(path, name), allow_not_found=True)
        files = file_system.get_file_info(selector)
        stray += [f"{name}/{item.base_name}" for item in files if not _belongs_in_table(item)]
    yield from _list_ids("left over from interrupted work, so run the stage again", stray)


def _belongs_in_table(item: pafs.FileInfo) -> bool:
    """Returns whether a file is a part of a table or one that every reader ignores."""
    if PurePosixPath(item.base_name).match("part-*.parquet"):
        return True
    return is_skipped_by_readers(item.base_name) and not item.base_name.endswith(".tmp")
