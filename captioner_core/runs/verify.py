"""Checks a finished run against every invariant of its tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from captioner_core.errors import CaptionerError
from captioner_core.io import storage
from captioner_core.io.junk import is_passed_by_readers
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
    FEATURE_DIM,
    GENERATED,
    HUMAN,
    MATCHED,
    NO_MATCH,
    SCHEMA_VERSION,
    TABLE_SCHEMAS,
)

_SHOWN = 5
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
# No rule reads these, and they are most of the bytes
_UNREAD = ("feature", "image_uri", "model_id", "backbone", "match_caption", "error_message")

Tables = dict[str, pd.DataFrame]


def verify(run_dir: str) -> list[str]:
    """A line for each kind of breach; none where the run is as it should be.

    Args:
      run_dir: ``ROOT/runs/RUN_ID``.

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
    tables = _read_tables(run_dir, manifest, breaches.append)
    checks = (_check_counts, _check_images, _check_features, _check_captions)
    for check in (
        *checks,
        _check_summary,
        _check_best,
        _check_matches,
        _check_ranks,
        _check_groups,
        _check_inputs,
    ):
        breaches += check(tables, manifest)
    return [*breaches, *_check_files(run_dir, manifest)]


def _check_manifest(manifest: commits.Manifest, folder: str) -> Iterator[str]:
    """Invariant 5, but for the counts."""
    for name, kind in _MANIFEST_FIELDS.items():
        if not isinstance(manifest.get(name), kind):
            yield f"manifest.json has no {name}, or one of another kind"
            return
    if manifest["schema_version"] != SCHEMA_VERSION:
        yield f"manifest.json: schema_version is {manifest['schema_version']}, not {SCHEMA_VERSION}"
    if manifest["run_id"] != folder:
        yield f"manifest.json: run_id is {manifest['run_id']!r}, the folder's name is {folder!r}"
    stages = manifest["stages"]
    if not stages:
        yield "manifest.json names no stage"
    for stage, facts in stages.items():
        if stage not in layout.STAGE_TABLES:
            yield f"manifest.json: stage {stage!r} is none of {', '.join(layout.STAGE_TABLES)}"
        elif not (isinstance(facts, dict) and _is_number(facts.get("wall_time_s"), low=0)):
            yield f"manifest.json: stage {stage!r} has no wall_time_s"
    if not manifest["versions"]:
        yield "manifest.json names no versions"
    if {EXTRACT, CAPTION} & stages.keys() and not isinstance(
        manifest["options"].get("images"), str
    ):
        yield "manifest.json: options.images, the images folder, is missing"
    if CAPTION in stages and not isinstance(manifest.get("model"), dict):
        yield "manifest.json has no model"
    if MATCH in stages:
        yield from _check_match_facts(manifest)


def _check_match_facts(manifest: commits.Manifest) -> Iterator[str]:
    encoder = manifest.get("encoder")
    if not (isinstance(encoder, dict) and encoder.get("name") and encoder.get("fingerprint")):
        yield "manifest.json has no encoder with name and fingerprint"
    for name, low in (("threshold", -1.0), ("top_k", 0.0)):
        if not _is_number(manifest["options"].get(name), low):
            yield f"manifest.json: options.{name} is missing or no number of {low:g} or more"


def _is_number(value: Any, low: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= low


def _tables_of(manifest: commits.Manifest) -> list[str]:
    written = {
        table for stage in manifest["stages"] for table in layout.STAGE_TABLES.get(stage, ())
    }
    return [name for name in layout.TABLES if name in written]


def _read_tables(run_dir: str, manifest: commits.Manifest, say: Callable[[str], None]) -> Tables:
    """The tables of the run's stages, without their vectors; one that is not as it should be is said and left out."""
    tables: Tables = {}
    own = collection_of_run(manifest, run_dir) if COLLECTIONS in manifest else ""
    for name in _tables_of(manifest):
        uri = layout.join(run_dir, name)
        parts = storage.list_parts(uri)
        breaches = [
            breach
            for part in parts
            for breach in _check_part(name, part, _expected(name, manifest))
        ]
        if not parts:
            breaches = [f"table {name} holds no Parquet file"]
        if not breaches:
            try:
                columns = [
                    field.name for field in _expected(name, manifest) if field.name not in _UNREAD
                ]
                table = storage.read_table(uri, columns)
                breaches = [
                    f"table {name}: column {c!r} holds nulls"
                    for c in _columns_with_nulls(name, table)
                ]
            except (CaptionerError, pa.ArrowException, OSError) as error:
                breaches = [f"table {name}: its rows can't be read ({storage.first_line(error)})"]
        if breaches:
            for breach in dict.fromkeys(breaches):
                say(breach)
            continue
        tables[name] = frame = with_keys(table, own).to_pandas()
        if (frame.run_id != manifest["run_id"]).any() or (
            frame.schema_version != SCHEMA_VERSION
        ).any():
            say(f"table {name}: run_id or schema_version differs from the manifest's")
    return tables


def _expected(name: str, manifest: commits.Manifest) -> list[pa.Field]:
    """Returns the columns that a table must have."""
    names_collections = COLLECTIONS in manifest
    return [
        field
        for field in TABLE_SCHEMAS[name]
        if names_collections or field.name not in COLLECTION_COLUMNS
    ]


def _check_part(name: str, part: str, expected: Iterable[pa.Field]) -> Iterator[str]:
    """One Parquet file's columns, types and codec; each part, for a reader of one sees no other."""
    file_system, path = storage.resolve(part)
    what = f"table {name}, {PurePosixPath(path).name}"
    try:
        with file_system.open_input_file(path) as stream:
            file = pq.ParquetFile(stream)
            schema, metadata = file.schema_arrow, file.metadata
    except (pa.ArrowException, OSError) as error:
        yield f"{what}: can't be read as Parquet ({storage.first_line(error)})"
        return
    for field in expected:
        place = schema.get_field_index(field.name)
        kinds = _FEATURE_TYPES if field.name == "feature" else (field.type,)
        if place < 0 or schema.field(place).type not in kinds:
            yield f"{what}: column {field.name!r} is missing or of another type than {field.type}"
    for group in (metadata.row_group(number) for number in range(metadata.num_row_groups)):
        for column in (group.column(place) for place in range(group.num_columns)):
            if column.compression != "ZSTD":
                yield f"{what}: its compression is {column.compression}, not ZSTD"
            # Told by the number of values, since reading a list column that holds a null row fails
            is_feature = column.path_in_schema.startswith("feature.")
            if is_feature and column.num_values != group.num_rows * FEATURE_DIM:
                yield f"{what}: column 'feature' holds nulls"


def _columns_with_nulls(name: str, table: pa.Table) -> list[str]:
    schema = TABLE_SCHEMAS[name]
    return [c for c in table.column_names if not schema.field(c).nullable and table[c].null_count]


def _some(what: str, ids: Iterable[Any]) -> Iterator[str]:
    """One line that names a few of the rows concerned, and none where there are none."""
    listed = sorted({str(one).replace("\0", " of ").removesuffix(" of ") for one in ids})
    if listed:
        more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
        yield f"{what}: {', '.join(map(repr, listed[:_SHOWN]))}{more}"


def _broken(table: str, ids: pd.Series[Any], rules: dict[str, Any]) -> Iterator[str]:
    """A line for each rule, whose value tells for each row whether it is broken."""
    for what, broken in rules.items():
        yield from _some(f"{table}: {what}", ids[np.asarray(broken, bool)])


def _no_cosine(scores: pd.Series[Any]) -> npt.NDArray[np.bool_]:
    """Whether each is neither a cosine nor NaN, which stands for unknown."""
    values = scores.to_numpy(np.float64)
    broken: npt.NDArray[np.bool_] = ~np.isnan(values) & ~((values >= -1) & (values <= 1))
    return broken


def _no_sha256(values: pd.Series[Any]) -> pd.Series[Any]:
    return ~values.str.fullmatch("[0-9a-f]{64}").astype(bool)


def _check_counts(tables: Tables, manifest: commits.Manifest) -> Iterator[str]:
    """Invariant 5: counts."""
    for name, frame in tables.items():
        counted = manifest["counts"].get(name)
        if counted != len(frame):
            yield f"manifest.json counts {counted} {name}, the table has {len(frame)} rows"


def _check_images(tables: Tables, manifest: commits.Manifest) -> Iterator[str]:
    """Invariant 1: an image found is a caption (or its features, where that was all that was asked) or a failure."""
    stages = manifest["stages"]
    if not {CAPTION, EXTRACT} & stages.keys() or FAILURES not in tables:
        return
    found, failed = manifest["counts"].get("images_found"), tables[FAILURES].image_id
    yield from _some("failures: image twice", failed[failed.duplicated()])
    yield from _broken(
        FAILURES, failed, {"error_type is empty": tables[FAILURES].error_type.str.strip() == ""}
    )
    if not _is_number(manifest["counts"].get("files_passed_over"), low=0):
        yield "manifest.json: counts.files_passed_over is missing"
    for name in (CAPTIONS, FEATURES) if CAPTION in stages else (FEATURES,):
        if name not in tables:
            continue
        done = tables[name].image_id
        yield from _some(f"{name}: image twice", done[done.duplicated()])
        yield from _some(f"{name}: image also in failures", set(done) & set(failed))
        if found != len(done) + len(failed):
            yield f"{found} images found, but {len(done)} {name} + {len(failed)} failures"
    if CAPTIONS in tables and FEATURES in tables:
        both = tables[CAPTIONS].merge(
            tables[FEATURES], on="image_id", suffixes=("", "_of_features")
        )
        differs = both.image_sha256 != both.image_sha256_of_features
        yield from _some("captions: image_sha256 is not that of features", both.image_id[differs])


def _check_features(tables: Tables, manifest: commits.Manifest) -> Iterator[str]:
    if FEATURES not in tables:
        return
    frame = tables[FEATURES]
    rules = {
        "width or height is below 1": (frame.width < 1) | (frame.height < 1),
        "image_sha256 is no sha256": _no_sha256(frame.image_sha256),
    }
    yield from _broken(FEATURES, frame.image_id, rules)


def _check_captions(tables: Tables, manifest: commits.Manifest) -> Iterator[str]:
    if CAPTIONS not in tables:
        return
    frame = tables[CAPTIONS]
    rules = {
        "caption is empty": frame.caption.str.strip() == "",
        "log_prob is above 0 or not a number": ~(frame.log_prob <= 0),
        "unk_fraction is outside 0 to 1": ~frame.unk_fraction.between(0, 1),
        "n_tokens is negative": frame.n_tokens < 0,
        "image_sha256 is no sha256": _no_sha256(frame.image_sha256),
        "source is neither generated nor human": ~frame.source.isin([GENERATED, HUMAN]),
    }
    yield from _broken(CAPTIONS, frame.image_id, rules)


def _check_summary(tables: Tables, manifest: commits.Manifest) -> Iterator[str]:
    """Invariant 2: one summary row for each captioned image, its counts those of its matches."""
    if MATCH_SUMMARY not in tables:
        return
    summary = tables[MATCH_SUMMARY]
    keys, above, written = summary.query_key, summary.n_above_threshold, summary.n_written
    yield from _some("match_summary: image twice", keys[keys.duplicated()])
    if CAPTIONS in tables:
        captioned = set(tables[CAPTIONS].image_key)
        yield from _some("captions: image without match_summary", captioned - set(keys))
        yield from _some("match_summary: image not captioned", set(keys) - captioned)
    rules = {
        "n_above_threshold is negative": above < 0,
        "status doesn't fit n_above_threshold": summary.status
        != np.where(above > 0, MATCHED, NO_MATCH),
        "best_score is outside -1 to 1": _no_cosine(summary.best_score),
    }
    top_k = manifest["options"].get("top_k")
    if _is_number(top_k, low=0):
        rules["n_written is not min(n_above_threshold, top_k)"] = written != above.clip(upper=top_k)
    if MATCHES in tables:
        queries = tables[MATCHES].query_key
        yield from _some("matches: image without match_summary", set(queries) - set(keys))
        rules["n_written is not its number of matches"] = written != keys.map(
            queries.value_counts()
        ).fillna(0)
    yield from _broken(MATCH_SUMMARY, keys, rules)


def _check_best(tables: Tables, manifest: commits.Manifest) -> Iterator[str]:
    """The summary's best match is the match of rank 1; without one, nothing reached the threshold."""
    if MATCH_SUMMARY not in tables or MATCHES not in tables:
        return
    first = tables[MATCHES][tables[MATCHES]["rank"] == 1]
    summary = tables[MATCH_SUMMARY].merge(
        first[["query_key", "match_key", "score"]], on="query_key"
    )
    near = (summary.best_score - summary.score).abs() <= _TOLERANCE  # False where either is NaN
    differs = (summary.best_match_key != summary.match_key) | ~near
    yield from _some(
        "match_summary: best match is not the match of rank 1", summary.query_key[differs]
    )
    threshold = manifest["options"].get("threshold")
    if _is_number(threshold, low=-1):
        none = tables[MATCH_SUMMARY][tables[MATCH_SUMMARY].n_above_threshold == 0]
        reached = none.best_score >= threshold + _TOLERANCE
        what = "match_summary: best_score reaches the threshold, yet n_above_threshold is 0"
        yield from _some(what, none.query_key[reached])


def _check_matches(tables: Tables, manifest: commits.Manifest) -> Iterator[str]:
    """Invariant 3, row by row."""
    if MATCHES not in tables:
        return
    frame, encoder = tables[MATCHES], manifest.get("encoder")
    rules = {
        "score is outside -1 to 1": ~frame.score.between(-1, 1),
        "feature_score is outside -1 to 1": _no_cosine(frame.feature_score),
        "image_text_score is outside -1 to 1": _no_cosine(frame.image_text_score),
        "an image matches itself": frame.query_key == frame.match_key,
        "match image twice for one query": frame.duplicated(["query_key", "match_key"]),
        "match_source is neither generated nor human": ~frame.match_source.isin([GENERATED, HUMAN]),
        "encoder is not the manifest's": frame.encoder
        != (encoder.get("name") if isinstance(encoder, dict) else None),
    }
    threshold = manifest["options"].get("threshold")
    if _is_number(threshold, low=-1):
        rules[f"score is below the threshold {threshold}"] = ~(
            frame.score >= threshold - _TOLERANCE
        )
    if manifest["options"].get("rank_by") != COMBINED:
        rules["rank_score is not the score"] = frame.rank_score != frame.score
    yield from _broken(MATCHES, frame.query_key, rules)


def _check_ranks(tables: Tables, manifest: commits.Manifest) -> Iterator[str]:
    """Invariant 3: ranks 1…n by falling rank_score, which is the score but with --rank-by; ties by match_image_id."""
    if MATCHES not in tables:
        return
    frame = tables[MATCHES].sort_values(["query_key", "rank"], ignore_index=True)
    place = frame.groupby("query_key").cumcount() + 1
    yield from _some("matches: ranks are not 1…n_written", frame.query_key[frame["rank"] != place])
    query, score = frame.query_key.to_numpy(object), frame.rank_score.to_numpy()
    match = frame.match_key.to_numpy(object)  # by the image's id first, then by its collection
    same = query[1:] == query[:-1]
    rising = same & (score[1:] > score[:-1])
    untied = same & (score[1:] == score[:-1]) & (match[1:] < match[:-1])
    yield from _some("matches: ranks are not in order of falling score", query[1:][rising])
    yield from _some("matches: equal scores are not in order of match_image_id", query[1:][untied])


def _check_groups(tables: Tables, manifest: commits.Manifest) -> Iterator[str]:
    """Every image that asks is in one group of images with the same captions."""
    if CAPTION_GROUPS not in tables:
        return
    groups = tables[CAPTION_GROUPS]
    rules = {
        "n_images or n_captions is below 1": (groups.n_images < 1) | (groups.n_captions < 1),
        "names more images than it counts": groups.image_ids.map(len) > groups.n_images,
    }
    yield from _broken(CAPTION_GROUPS, groups.caption, rules)
    if MATCH_SUMMARY in tables and groups.n_images.sum() != len(tables[MATCH_SUMMARY]):
        yield f"caption_groups: {groups.n_images.sum()} images, but match_summary has {len(tables[MATCH_SUMMARY])}"


def _check_inputs(tables: Tables, manifest: commits.Manifest) -> Iterator[str]:
    """The images that asked are those that were answered, and none matched that was not there."""
    if MATCH_INPUTS not in tables:
        return
    inputs = tables[MATCH_INPUTS]
    sides = {side: set(inputs.image_key[inputs.side == side]) for side in ("query", "index")}
    if MATCH_SUMMARY in tables and sides["query"] != set(tables[MATCH_SUMMARY].query_key):
        yield "match_inputs: the images that asked are not those of match_summary"
    if MATCHES in tables:
        yield from _some(
            "match_inputs: match is not listed", set(tables[MATCHES].match_key) - sides["index"]
        )


def _check_files(run_dir: str, manifest: commits.Manifest) -> Iterator[str]:
    """Nothing unfinished, and no table of a stage that is not in the manifest.

    What readers pass over is passed over, such as ``.DS_Store`` and ``_SUCCESS``; what captioner itself leaves behind
    when it is cut off is not.
    """
    file_system, path = storage.resolve(run_dir)
    tables, stray = _tables_of(manifest), []
    for item in file_system.get_file_info(pafs.FileSelector(path)):
        if item.base_name == layout.STAGING or item.base_name.endswith(".tmp"):
            stray.append(item.base_name)
        elif item.base_name in layout.TABLES and item.base_name not in tables:
            yield f"table {item.base_name} is of no stage in manifest.json"
    for name in tables:
        held = file_system.get_file_info(
            pafs.FileSelector(layout.join(path, name), allow_not_found=True)
        )
        stray += [f"{name}/{item.base_name}" for item in held if not _belongs_in_table(item)]
    yield from _some("left over from work cut off, so run the stage again", stray)


def _belongs_in_table(item: pafs.FileInfo) -> bool:
    """Returns whether a table's folder may hold a file: a part of the table, or what every reader passes over."""
    if PurePosixPath(item.base_name).match("part-*.parquet"):
        return True
    return is_passed_by_readers(item.base_name) and not item.base_name.endswith(".tmp")
