"""Checks a finished run against every invariant of its tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from captioner_core import layout, runs, storage
from captioner_core.errors import CaptionerError
from captioner_core.layout import CAPTION, CAPTIONS, EXTRACT, FAILURES, FEATURES, MATCH, MATCH_SUMMARY, MATCHES
from captioner_core.schemas import GENERATED, HUMAN, MATCHED, NO_MATCH, SCHEMA_VERSION, TABLE_SCHEMAS

_SHOWN = 5
_TOLERANCE = 1e-6
_MANIFEST_FIELDS = ("schema_version", "run_id", "stages", "counts", "options", "versions")

Tables = dict[str, pd.DataFrame]


def verify(run_dir: str) -> list[str]:
    """A line for each kind of breach; none where the run is as it should be.

    Args:
      run_dir: ``ROOT/runs/RUN_ID``.

    Raises:
      CaptionerError: there is no such folder.
    """
    if not storage.exists(run_dir):
        raise CaptionerError(f"run {run_dir!r} does not exist; name ROOT/runs/RUN_ID")
    try:
        manifest = runs.read_manifest(run_dir)
    except CaptionerError as error:
        return [str(error)]
    missing = [name for name in _MANIFEST_FIELDS if name not in manifest]
    if missing:
        return [f"manifest.json has no {', '.join(missing)}"]
    breaches: list[str] = []
    tables = _read_tables(run_dir, manifest, breaches.append)
    for check in (_check_counts, _check_images, _check_captions, _check_summary, _check_matches, _check_ranks):
        breaches += check(tables, manifest)
    if storage.exists(layout.join(run_dir, "_staging")):
        breaches.append("_staging is left over from work cut off; run the stage again")
    return breaches


def _read_tables(run_dir: str, manifest: runs.Manifest, say: Callable[[str], None]) -> Tables:
    """The tables of the run's stages, without their vectors; one that is not as it should be is said and left out."""
    tables: Tables = {}
    wanted = {table for stage in manifest["stages"] for table in layout.STAGE_TABLES.get(stage, ())}
    for name in sorted(wanted):
        schema = TABLE_SCHEMAS[name]
        try:
            dataset = storage.open_table(layout.join(run_dir, name), f"table {name}")
        except CaptionerError as error:
            say(str(error))
            continue
        wrong = [field.name for field in schema if dataset.schema.get_field_index(field.name) < 0]
        wrong += [f.name for f in schema if f.name not in wrong and dataset.schema.field(f.name).type != f.type]
        if wrong:
            say(f"table {name}: column {wrong[0]!r} is missing or of another type than {schema.field(wrong[0]).type}")
            continue
        columns = [field.name for field in schema if field.name != "feature"]
        tables[name] = frame = dataset.to_table(columns=columns).to_pandas()
        if (frame.run_id != manifest["run_id"]).any() or (frame.schema_version != SCHEMA_VERSION).any():
            say(f"table {name}: run_id or schema_version differs from the manifest's")
    return tables


def _some(what: str, ids: Iterable[Any]) -> Iterator[str]:
    """One line that names a few of the rows concerned, and none where there are none."""
    listed = list(dict.fromkeys(map(str, ids)))
    if listed:
        more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
        yield f"{what}: {', '.join(map(repr, listed[:_SHOWN]))}{more}"


def _check_counts(tables: Tables, manifest: runs.Manifest) -> Iterator[str]:
    for name, frame in tables.items():
        counted = manifest["counts"].get(name)
        if counted != len(frame):
            yield f"manifest counts {counted} {name}, the table has {len(frame)} rows"


def _check_images(tables: Tables, manifest: runs.Manifest) -> Iterator[str]:
    """Invariant 1: an image found is a caption (or its features, where that was all that was asked) or a failure."""
    stages = manifest["stages"]
    if not {CAPTION, EXTRACT} & stages.keys() or FAILURES not in tables:
        return
    for name in (CAPTIONS, FEATURES) if CAPTION in stages else (FEATURES,):
        if name not in tables:
            continue
        done, failed = tables[name].image_id, tables[FAILURES].image_id
        yield from _some(f"image twice in {name}", done[done.duplicated()])
        yield from _some(f"image in {name} and in failures", set(done) & set(failed))
        found = manifest["counts"].get("images_found")
        if found != len(done) + len(failed):
            yield f"{found} images found, but {len(done)} {name} + {len(failed)} failures"
    failed = tables[FAILURES].image_id
    yield from _some("image twice in failures", failed[failed.duplicated()])


def _check_captions(tables: Tables, manifest: runs.Manifest) -> Iterator[str]:
    if CAPTIONS not in tables:
        return
    frame = tables[CAPTIONS]
    rules = {
        "caption is empty": frame.caption.str.strip() == "",
        "log_prob is above 0 or not a number": ~(frame.log_prob <= 0),
        "unk_fraction is outside 0 to 1": ~frame.unk_fraction.between(0, 1),
        "n_tokens is negative": frame.n_tokens < 0,
        "image_sha256 is no sha256": ~frame.image_sha256.str.fullmatch("[0-9a-f]{64}"),
        "source is neither generated nor human": ~frame.source.isin([GENERATED, HUMAN]),
    }
    for what, broken in rules.items():
        yield from _some(f"captions: {what}", frame.image_id[broken.astype(bool)])


def _check_summary(tables: Tables, manifest: runs.Manifest) -> Iterator[str]:
    """Invariant 2: one summary row for each captioned image, its counts those of its matches."""
    if MATCH_SUMMARY not in tables or MATCHES not in tables:
        return
    summary, matches = tables[MATCH_SUMMARY].set_index("query_image_id"), tables[MATCHES]
    yield from _some("image twice in match_summary", summary.index[summary.index.duplicated()])
    if CAPTIONS in tables:
        captioned = set(tables[CAPTIONS].image_id)
        yield from _some("captioned image without match_summary", captioned - set(summary.index))
        yield from _some("match_summary of an image not captioned", set(summary.index) - captioned)
    yield from _some("matches of an image without match_summary", set(matches.query_image_id) - set(summary.index))
    rows = matches.groupby("query_image_id").size().reindex(summary.index, fill_value=0)
    yield from _some(
        "n_written is not the number of matches", summary.index[summary.n_written.to_numpy() != rows.to_numpy()]
    )
    expected = summary.n_above_threshold.clip(upper=manifest["options"].get("top_k"))
    yield from _some("n_written is not min(n_above_threshold, top_k)", summary.index[summary.n_written != expected])
    status = np.where(summary.n_above_threshold > 0, MATCHED, NO_MATCH)
    yield from _some("status doesn't fit n_above_threshold", summary.index[summary.status != status])
    first = matches[matches["rank"] == 1].set_index("query_image_id")
    known = summary[~summary.index.duplicated()].reindex(first.index)
    differs = (known.best_match_image_id != first.match_image_id) | (
        (known.best_score - first.score).abs() > _TOLERANCE
    )
    yield from _some("best match of match_summary is not the match of rank 1", first.index[differs.to_numpy()])


def _check_matches(tables: Tables, manifest: runs.Manifest) -> Iterator[str]:
    """Invariant 3, row by row."""
    if MATCHES not in tables:
        return
    frame = tables[MATCHES]
    threshold = manifest["options"].get("threshold", -1.0)
    rules = {
        f"score below the threshold {threshold}": ~(frame.score >= threshold - _TOLERANCE),
        "score outside -1 to 1": ~frame.score.between(-1, 1),
        "an image matches itself": frame.query_image_id == frame.match_image_id,
        "match image twice for one query": frame.duplicated(["query_image_id", "match_image_id"]),
        "match_source is neither generated nor human": ~frame.match_source.isin([GENERATED, HUMAN]),
        "encoder is not the manifest's": frame.encoder != (manifest.get("encoder") or {}).get("name"),
    }
    for what, broken in rules.items():
        yield from _some(f"matches: {what}", frame.query_image_id[broken.astype(bool)])


def _check_ranks(tables: Tables, manifest: runs.Manifest) -> Iterator[str]:
    """Invariant 3: ranks 1…n by falling score, ties by match_image_id."""
    if MATCHES not in tables or MATCH not in manifest["stages"]:
        return
    frame = tables[MATCHES].sort_values(["query_image_id", "rank"], ignore_index=True)
    place = frame.groupby("query_image_id").cumcount() + 1
    yield from _some("matches: ranks are not 1…n_written", frame.query_image_id[frame["rank"] != place])
    before = frame.shift()
    same = frame.query_image_id == before.query_image_id
    rising = frame.score > before.score
    untied = (frame.score == before.score) & (frame.match_image_id <= before.match_image_id)
    yield from _some("matches: ranks are not in order of falling score", frame.query_image_id[same & rising])
    yield from _some("matches: equal scores are not in order of match_image_id", frame.query_image_id[same & untied])
