"""Captions in COCO's JSON (Chen et al. 2015, https://arxiv.org/abs/1504.00325)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from captioner_core.datasets.base import SPLITS, DatasetSummary, DatasetWriter, import_images, safe_image_id
from captioner_core.errors import CaptionerError
from captioner_core.plain_json import parse_json

_HALVES = re.compile("[\ud800-\udfff]")


def build(output: Path, *, annotations: Mapping[str, Path], images: Path, limit: int | None = None) -> DatasetSummary:
    """Makes a dataset folder of COCO captions; images are linked, or copied where they can't be.

    Args:
      output: the dataset folder.
      annotations: split to its JSON file, such as ``captions_train2017.json``.
      images: folder with the images of all splits.
      limit: number of images; all where None.

    Raises:
      CaptionerError: a file is missing or no captions JSON, an id leaves its folder, an unknown split.
    """
    for split in annotations:
        if split not in SPLITS:
            raise CaptionerError(f"--annotations: split {split!r} is not one of {', '.join(SPLITS)}; write SPLIT=FILE")
    captions: dict[str, list[str]] = {}
    splits: dict[str, str] = {}
    asked = {
        "dataset": "coco",
        "annotations": {s: str(p) for s, p in annotations.items()},
        "images": str(images),
        "limit": limit,
    }
    read = {"--annotations": list(annotations.values()), "--images": [images]}
    writer = DatasetWriter(output, "coco", asked, inputs=read)
    for split, path in annotations.items():
        for image_id, caption in _read(path, writer):
            captions.setdefault(image_id, []).append(caption)
            splits.setdefault(image_id, split)
    return import_images(writer, images, captions, splits, limit)


def _read(path: Path, writer: DatasetWriter) -> list[tuple[str, str]]:
    """Image id and caption of each annotation of a file."""
    try:
        value: Any = parse_json(path.read_bytes())
        names = {item["id"]: safe_image_id(item["file_name"], "COCO file_name") for item in value["images"]}
        found = [(names.get(item["image_id"]), item["caption"]) for item in value["annotations"]]
    except OSError as error:
        raise CaptionerError(
            f"--annotations {str(path)!r} can't be read ({error.strerror}); name a JSON file"
        ) from error
    except CaptionerError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CaptionerError(
            f"--annotations {str(path)!r} is no COCO captions JSON ({error!r}); name another file"
        ) from error
    used = [(name, caption.strip()) for name, caption in found if _is_text(name) and _is_text(caption)]
    writer.left_out["annotations without text or of no listed image"] += len(found) - len(used)
    return used


def _is_text(value: Any) -> TypeGuard[str]:
    """Whether it is a string with something in it that UTF-8 can say: JSON's can hold halves of characters."""
    return isinstance(value, str) and bool(value.strip()) and not _HALVES.search(value)
