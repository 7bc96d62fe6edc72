"""Finished runs as a real run leaves them, made without models or Beam.

``make_run`` draws small pictures, a dataset to match against and a model folder, and writes the
tables and the manifest of a run over them. Its rows keep every invariant of a run.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from captioner_core.runs.identity import collection_of_table, default_collection
from captioner_core.tables import layout, schemas
from captioner_core.tables.layout import RunLayout
from captioner_core.tables.schemas import (
    GENERATED,
    HUMAN,
    MATCHED,
    NO_MATCH,
    CaptionGroupRow,
    CaptionRow,
    DatasetCaptionRow,
    FailureRow,
    FeatureRow,
    MatchInputRow,
    MatchRow,
    MatchSummaryRow,
    Row,
)

MODEL_ID = "lstm-0123456789abcdef"
ENCODER = "spacy-content"
THRESHOLD = 0.9
SUBJECTS = (
    "a brown dog",
    "two children",
    "a man in a red shirt",
    "a black and white cat",
    "a woman",
    "a group of people",
)
ACTIONS = (
    "running on grass",
    "playing in the water",
    "riding a bicycle",
    "sitting on a bench",
    "jumping over a hurdle",
)


def caption_of(number: int) -> str:
    """Returns the caption of the picture of this number; captions repeat after 30 pictures."""
    return f"{SUBJECTS[number % len(SUBJECTS)]} {ACTIONS[number % len(ACTIONS)]}"


def draw_picture(path: Path, number: int) -> Path:
    """Draws one of many small pictures, in one of three shapes, and returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size = ((240, 180), (180, 240), (200, 200))[number % 3]
    hue = number * 67 % 360
    image = Image.new("RGB", size, f"hsl({hue}, 45%, 62%)")
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, size[1] * 2 // 3, *size), fill=f"hsl({(hue + 90) % 360}, 40%, 40%)")
    left = size[0] // 4 + number % 5 * 8
    top = size[1] // 4
    pen.ellipse((left, top, left + 80, top + 80), fill=f"hsl({(hue + 180) % 360}, 60%, 55%)")
    image.save(path)
    return path


def write_table(
    folder: Path, schema: pa.Schema, rows: Iterable[Row], run_id: str, parts: int = 1
) -> None:
    """Writes rows as the part files of a table; each part gets every ``parts``-th row."""
    all_rows = list(rows)
    folder.mkdir(parents=True, exist_ok=True)
    for part in range(parts):
        table = schemas.rows_as_table(all_rows[part::parts], run_id, schema)
        pq.write_table(table, folder / f"part-{part:05d}.parquet", compression="zstd")


def make_caption_row(image_id: str, caption: str, **changes: Any) -> CaptionRow:
    """Returns a row of captions of an image that need not exist.

    Args:
      image_id: the image.
      caption: its caption.
      changes: other values of fields.
    """
    row = CaptionRow(
        image_id=image_id,
        image_uri=image_id,
        image_sha256=hashlib.sha256(image_id.encode()).hexdigest(),
        caption=caption,
        source=GENERATED,
        model_id=MODEL_ID,
        log_prob=-1.0,
        n_tokens=len(caption.split()),
        unk_fraction=0.0,
    )
    return dataclasses.replace(row, **changes)


def write_dataset(
    folder: Path, captions: Sequence[tuple[str, str]], run_id: str = "dataset"
) -> Path:
    """Writes a dataset's table of human captions and returns its path.

    Args:
      folder: folder of the dataset.
      captions: pairs of an image id and a caption.
      run_id: the run id in the rows.
    """
    rows = [
        DatasetCaptionRow(image_id, n, caption, "train")
        for n, (image_id, caption) in enumerate(captions)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    table = schemas.rows_as_table(rows, run_id, schemas.DATASET_CAPTIONS_SCHEMA)
    path = folder / layout.DATASET_CAPTIONS
    pq.write_table(table, path, compression="zstd")
    return path


def write_model(folder: Path, epochs: int = 8) -> Path:
    """Writes the metrics of a model folder, which say how training went, and returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    history = [
        {
            "epoch": n,
            "train_loss": 2.4 + 3 * math.exp(-n / 2.5),
            "dev_loss": 2.9 + 2.4 * math.exp(-n / 2) + 0.02 * n,
            "seconds": 41.5,
        }
        for n in range(1, epochs + 1)
    ]
    (folder / "metrics.json").write_text(
        json.dumps({"model_id": MODEL_ID, "history": history}), encoding="utf-8"
    )
    return folder


def make_run(
    root: Path,
    *,
    images: int = 12,
    index_images: int = 20,
    matches_each: int = 4,
    no_match_every: int = 4,
    failures: int = 3,
    ids: Sequence[str] | None = None,
    captions: Sequence[str] | None = None,
    model: bool = True,
    run_id: str = "test-run",
) -> str:
    """Makes a finished run in ``root/out``, with its images, its index and its model in ``root``.

    Args:
      root: an empty folder.
      images: number of captioned images.
      index_images: number of images of the dataset that the run is matched against.
      matches_each: number of matches of each image that has any; the last may be of the same run.
      no_match_every: one image in this many has no match; 0 gives every image matches.
      failures: number of failed images.
      ids: ids of the captioned images; None stands for ``folder/img-000.png`` and so on.
      captions: captions of these images; None stands for those of ``caption_of``.
      model: whether a model folder is written.
      run_id: name of the run.

    Returns:
      The run's folder.
    """
    folder = root / "new"
    run = RunLayout(str(root / "out"), run_id)
    ids = list(ids if ids is not None else (f"folder/img-{n:03d}.png" for n in range(images)))
    captions = list(captions if captions is not None else (caption_of(n) for n in range(len(ids))))
    rows = [_caption_row(folder, n, image_id, captions[n]) for n, image_id in enumerate(ids)]
    dataset = root / "dataset"
    index = [(f"{n:03d}.jpg", caption_of(n)) for n in range(index_images)]
    for n, (image_id, _) in enumerate(index):
        draw_picture(dataset / layout.DATASET_IMAGES / image_id, 100 + n)
    index_uri = write_dataset(dataset, index)
    if model:
        write_model(root / "model")
    collections = Collections(default_collection(str(folder)), collection_of_table(str(index_uri)))
    matches: list[MatchRow] = []
    summaries: list[MatchSummaryRow] = []
    for n, row in enumerate(rows):
        has_no_match = no_match_every and n % no_match_every == 3
        matched = [] if has_no_match else _matches(row, n, index, rows, matches_each, collections)
        matches += matched
        summaries.append(_summary(row, matched, index, collections))
    failed = [_failure(folder, n) for n in range(failures)]
    tables: dict[str, Sequence[Row]] = {
        layout.FEATURES: [_feature_row(row, n) for n, row in enumerate(rows)],
        layout.CAPTIONS: rows,
        layout.MATCHES: matches,
        layout.MATCH_SUMMARY: summaries,
        layout.CAPTION_GROUPS: _groups(rows, collections),
        layout.MATCH_INPUTS: _inputs(rows, index, collections),
        layout.FAILURES: failed,
    }
    for name, table_rows in tables.items():
        schema = schemas.TABLE_SCHEMAS[name]
        write_table(Path(run.table(name)), schema, list(table_rows)[::-1], run_id, parts=2)
    counts = {name: len(table_rows) for name, table_rows in tables.items()}
    write_manifest(run, counts, folder, index_uri, root / "model")
    return run.run_dir


def write_manifest(
    run: RunLayout, counts: dict[str, int], folder: Path, index: Path, model: Path
) -> None:
    """Writes the manifest of a run that was matched against a dataset and itself.

    Args:
      run: the run.
      counts: number of rows of each table.
      folder: the folder of its images.
      index: path of the dataset's table of captions.
      model: the model folder.
    """
    manifest: dict[str, Any] = {
        "schema_version": schemas.SCHEMA_VERSION,
        "run_id": run.run_id,
        "created_utc": "2026-02-03T04:05:06+00:00",
        "stages": {"caption": {"wall_time_s": 12.3}, "match": {"wall_time_s": 0.8}},
        "counts": {
            "images_found": counts[layout.CAPTIONS] + counts[layout.FAILURES],
            "files_passed_over": 1,
            **counts,
        },
        "options": {
            "images": str(folder),
            "index": [str(index), run.table(layout.CAPTIONS)],
            "captions": [run.table(layout.CAPTIONS)],
            "threshold": THRESHOLD,
            "top_k": 10,
            "encoder": ENCODER,
            "max_failures": None,
        },
        "versions": {"captioner": "0.1.0", "python": "3.11.2", "tensorflow": "2.21.0"},
        "model": {"model_id": MODEL_ID, "path": str(model)},
        "encoder": {"name": ENCODER, "fingerprint": "f00d"},
        "collection": default_collection(str(folder)),
        "collections": [collection_of_table(str(index)), default_collection(str(folder))],
    }
    Path(run.manifest).write_text(json.dumps(manifest), encoding="utf-8")


class Collections(NamedTuple):
    """The collections of the captioned images and of the dataset that they are matched against.

    Args:
      own: collection of the captioned images.
      dataset: collection of the dataset.
    """

    own: str
    dataset: str


def change_manifest(run_dir: str, **changes: Any) -> None:
    """Replaces entries of a run's manifest; a dictionary is merged into the existing one."""
    path = Path(run_dir, "manifest.json")
    manifest = json.loads(path.read_text(encoding="utf-8"))
    for name, value in changes.items():
        manifest[name] = {**manifest[name], **value} if isinstance(value, dict) else value
    path.write_text(json.dumps(manifest), encoding="utf-8")


class MatchedImage(NamedTuple):
    """An image that matches a query, with its caption."""

    image_id: str
    caption: str
    source: str
    collection: str


def _caption_row(folder: Path, number: int, image_id: str, caption: str) -> CaptionRow:
    path = draw_picture(folder / image_id, number)
    return make_caption_row(
        image_id,
        caption,
        image_uri=str(path),
        image_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        log_prob=-4.5 - number / 7,
    )


def _feature_row(row: CaptionRow, number: int) -> FeatureRow:
    feature = np.random.default_rng(number).random(schemas.FEATURE_DIM, np.float32)
    return FeatureRow(
        row.image_id,
        row.image_uri,
        row.image_sha256,
        240,
        180,
        "fake-299",
        "float32",
        "fake",
        feature,
    )


def _matches(
    query: CaptionRow,
    number: int,
    index: Sequence[tuple[str, str]],
    rows: Sequence[CaptionRow],
    amount: int,
    collections: Collections,
) -> list[MatchRow]:
    matched = [
        MatchedImage(*index[(number + 5 * k) % len(index)], HUMAN, collections.dataset)
        for k in range(min(amount, len(index)))
    ]
    other = rows[(number + 1) % len(rows)]
    if matched and other.image_id != query.image_id:
        matched[-1] = MatchedImage(other.image_id, other.caption, GENERATED, collections.own)
    matched = list(dict.fromkeys(matched))
    return [
        MatchRow(
            query_image_id=query.image_id,
            query_collection=collections.own,
            query_caption=query.caption,
            rank=rank,
            match_image_id=match.image_id,
            match_collection=match.collection,
            match_caption=match.caption,
            match_source=match.source,
            score=1.0 - 0.07 * (rank - 1) / amount - 0.006 * (number % 5),
            feature_score=0.8 - 0.05 * rank if match.source == GENERATED else math.nan,
            image_text_score=math.nan,
            is_duplicate=rank == 2,
            encoder=ENCODER,
            rank_score=1.0 - 0.07 * (rank - 1) / amount - 0.006 * (number % 5),
        )
        for rank, match in enumerate(matched, start=1)
    ]


def _summary(
    query: CaptionRow,
    found: Sequence[MatchRow],
    index: Sequence[tuple[str, str]],
    collections: Collections,
) -> MatchSummaryRow:
    best_score = math.nan
    best_image_id = None
    best_collection = None
    if found:
        best_score = found[0].score
        best_image_id = found[0].match_image_id
        best_collection = found[0].match_collection
    elif index:
        best_score = 0.8996  # just below THRESHOLD
        best_image_id = index[len(query.image_id) % len(index)][0]
        best_collection = collections.dataset
    return MatchSummaryRow(
        query_image_id=query.image_id,
        query_collection=collections.own,
        query_caption=query.caption,
        status=MATCHED if found else NO_MATCH,
        n_above_threshold=len(found),
        n_written=len(found),
        best_score=best_score,
        best_match_image_id=best_image_id,
        best_match_collection=best_collection,
    )


def _groups(rows: Sequence[CaptionRow], collections: Collections) -> list[CaptionGroupRow]:
    sharing: dict[str, list[str]] = {}
    for row in rows:
        sharing.setdefault(row.caption, []).append(row.image_id)
    return [
        CaptionGroupRow(caption, 1, len(ids), sorted(ids)[:20], [collections.own] * len(ids[:20]))
        for caption, ids in sharing.items()
    ]


def _inputs(
    rows: Sequence[CaptionRow], index: Sequence[tuple[str, str]], collections: Collections
) -> list[MatchInputRow]:
    own = [
        MatchInputRow(side, row.image_id, collections.own, row.caption, GENERATED, row.image_sha256)
        for row in rows
        for side in ("query", "index")
    ]
    return [
        *own,
        *(
            MatchInputRow("index", image_id, collections.dataset, caption, HUMAN, "")
            for image_id, caption in index
        ),
    ]


def _failure(folder: Path, number: int) -> FailureRow:
    image_id = f"broken/{number:03d}.jpg"
    errors = (("empty_file", "the file is empty"), ("truncated", "the file ends early"))
    error_type, message = errors[number % 2]
    return FailureRow("extract", image_id, str(folder / image_id), error_type, message)
