"""Captions in a CSV file: one line a caption, with columns for image, caption and, maybe, split."""

from __future__ import annotations

import csv
from pathlib import Path

from captioner_core.datasets.base import (
    SPLITS,
    DatasetSummary,
    DatasetWriter,
    import_images,
    safe_image_id,
    split_by_hash,
)
from captioner_core.errors import CaptionerError

_IMAGE_COLUMNS = ("image_id", "image", "file_name", "filename")


def build(output: Path, *, csv_file: Path, images: Path, limit: int | None = None) -> DatasetSummary:
    """Makes a dataset folder of a CSV's captions; images are linked, or copied where they can't be.

    Args:
      output: the dataset folder.
      csv_file: UTF-8, with a header that names ``image_id`` (or image, file_name, filename),
        ``caption`` and perhaps ``split``; without it 80/10/10 by the id.
      images: folder with the images.
      limit: number of images; all where None.

    Raises:
      CaptionerError: the file is missing, no UTF-8, or lacks a column; a split is not known; an id leaves its folder.
    """
    asked = {"dataset": "csv", "csv": str(csv_file), "images": str(images), "limit": limit}
    captions: dict[str, list[str]] = {}
    splits: dict[str, str] = {}
    empty = 0
    for line, (image_id, caption, split) in enumerate(_read(csv_file), start=2):
        if split is not None and split not in SPLITS:
            raise CaptionerError(
                f"{csv_file}, line {line}: split {split!r} is not one of {', '.join(SPLITS)}; mend the line"
            )
        if not image_id or not caption:
            empty += 1
            continue
        image_id = safe_image_id(image_id, f"{csv_file}, line {line}: image")
        captions.setdefault(image_id, []).append(caption)
        splits.setdefault(image_id, split or split_by_hash(image_id))
    writer = DatasetWriter(output, "csv", asked, inputs={"--csv": [csv_file], "--images": [images]})
    writer.left_out["lines without image or caption"] = empty
    return import_images(writer, images, captions, splits, limit)


def _read(path: Path) -> list[tuple[str, str, str | None]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            found = reader.fieldnames or []
            image = next((name for name in _IMAGE_COLUMNS if name in found), None)
            if image is None or "caption" not in found:
                raise CaptionerError(
                    f"--csv {str(path)!r} has the columns {', '.join(found) or '(none)'}; it needs image_id and caption"
                )
            return [
                ((row[image] or "").strip(), (row["caption"] or "").strip(), (row.get("split") or "").strip() or None)
                for row in reader
            ]
    except OSError as error:
        raise CaptionerError(f"--csv {str(path)!r} can't be read ({error.strerror}); name a CSV file") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise CaptionerError(f"--csv {str(path)!r} is no CSV in UTF-8 ({error}); save it as such") from error
