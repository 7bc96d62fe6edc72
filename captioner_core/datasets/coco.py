"""Captions in COCO's JSON (Chen et al. 2015, https://arxiv.org/abs/1504.00325)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from captioner_core.datasets.base import DatasetSummary, DatasetWriter, import_images, safe_image_id
from captioner_core.errors import CaptionerError
from captioner_core.io.json_text import parse_json
from captioner_core.tables.splits import SPLIT_NAMES, canonical_split
from captioner_core.text.vocabulary import single_line

_Id = int | float | str
_HALVES = re.compile("[\ud800-\udfff]")
_SHAPES = ("bbox", "segmentation", "keypoints", "segments_info")
"""Keys of annotations that tell where things are, in COCO's files of instances, persons and panoptic segments."""


def build(
    output: Path,
    *,
    annotations: Mapping[str, Path | Sequence[Path]],
    images: Path,
    limit: int | None = None,
    collection: str | None = None,
) -> DatasetSummary:
    """Makes a dataset folder of COCO captions; images are linked, or copied where they can't be.

    Args:
      output: the dataset folder.
      annotations: split to its JSON file or files, such as ``captions_train2017.json``.
      images: folder with the images of all splits.
      limit: number of images; all where None.
      collection: name of the collection that the images belong to; made from the folder where None.

    Raises:
      CaptionerError: a file is missing or holds no captions, an id leaves its folder, a split is not
        known, or an image is in two splits.
    """
    files = _files_by_split(annotations)
    options = {
        "dataset": "coco",
        "annotations": {name: _option(paths) for name, paths in files.items()},
        "images": str(images),
        "limit": limit,
    }
    captions: dict[str, list[str]] = {}
    splits: dict[str, str] = {}
    left_out: Counter[str] = Counter()
    for split, paths in files.items():
        for path in paths:
            for image_id, caption in _read(path, left_out):
                if splits.setdefault(image_id, split) != split:
                    # A model would be evaluated on images that it has learnt.
                    raise CaptionerError(
                        f"--annotations {str(path)!r}: image {image_id!r} is in split {split!r} here and in "
                        f"{splits[image_id]!r} of another file; put all its captions into one split"
                    )
                captions.setdefault(image_id, []).append(caption)
    read = {
        "--annotations": [path for paths in files.values() for path in paths],
        "--images": [images],
    }
    writer = DatasetWriter(output, "coco", options, inputs=read, collection=collection)
    writer.left_out.update(left_out)
    return import_images(writer, images, captions, splits, limit)


def _files_by_split(annotations: Mapping[str, Path | Sequence[Path]]) -> dict[str, list[Path]]:
    files: dict[str, list[Path]] = {}
    for name, paths in annotations.items():
        split = canonical_split(name)
        if split is None:
            raise CaptionerError(
                f"--annotations: split {name!r} is not one of {SPLIT_NAMES}; write SPLIT=FILE"
            )
        files.setdefault(split, []).extend([paths] if isinstance(paths, Path) else paths)
    return files


def _option(paths: Sequence[Path]) -> str | list[str]:
    """Returns what dataset.json says of a split's files: one name, as in earlier versions, or several."""
    names = [str(path) for path in paths]
    return names[0] if len(names) == 1 else names


def _read(path: Path, left_out: Counter[str]) -> list[tuple[str, str]]:
    """Returns image id and caption of each annotation of a file, and counts those that have no use.

    Raises:
      CaptionerError: the file can't be read, is no JSON of COCO's form, or holds no captions.
    """
    try:
        value: Any = parse_json(path.read_bytes())
    except OSError as error:
        raise CaptionerError(
            f"--annotations {str(path)!r} can't be read ({error.strerror}); name a JSON file"
        ) from error
    except ValueError as error:
        raise _no_coco(path, f"it is not JSON: {error}") from error
    listed = _list_of(value, "images", path)
    annotations = _list_of(value, "annotations", path)
    _check_captions(annotations, path)
    names = _names_by_id(listed, path)
    numbers = [_id_of(annotation, "image_id") for annotation in annotations]
    if annotations and not any(number in names for number in numbers):
        raise CaptionerError(
            f"--annotations {str(path)!r}: no caption is of a listed image: {annotations[0].get('image_id')!r} "
            f"is not among the ids of 'images', such as {next(iter(names), None)!r}; correct the ids"
        )
    used = []
    for number, annotation in zip(numbers, annotations, strict=True):
        caption = annotation.get("caption")
        if number in names and _is_text(names[number]) and _is_text(caption):
            used.append((names[number], single_line(caption)))
    left_out["annotations without text or of no listed image"] += len(annotations) - len(used)
    return used


def _list_of(value: Any, key: str, path: Path) -> list[dict[str, Any]]:
    if isinstance(value, list):
        raise _no_coco(path, "it is a list, as COCO's results are, without the images' names")
    if not isinstance(value, dict) or key not in value:
        raise _no_coco(path, f"it has no {key!r}")
    items = value[key]
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise _no_coco(path, f"its {key!r} is no list of objects")
    return items


def _check_captions(annotations: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Refuses annotations that hold something else than captions.

    Raises:
      CaptionerError: no annotation has a caption.
    """
    if not annotations or any("caption" in annotation for annotation in annotations):
        return
    found = next((key for key in _SHAPES if key in annotations[0]), None)
    if found is None:
        raise _no_coco(path, "its annotations have no 'caption'")
    raise CaptionerError(
        f"--annotations {str(path)!r} holds boxes or outlines of objects ({found!r}) and no captions; "
        "name the file of the same images whose name begins with captions_"
    )


def _id_of(item: Mapping[str, Any], key: str) -> _Id | None:
    value = item.get(key)
    return value if isinstance(value, int | float | str) else None


def _names_by_id(images: Sequence[Mapping[str, Any]], path: Path) -> dict[_Id | None, str]:
    """Returns each image's id and its safe name.

    Raises:
      CaptionerError: an id or a name is missing, leaves its folder, or is of two images.
    """
    names: dict[_Id | None, str] = {}
    for image in images:
        number, name = _id_of(image, "id"), image.get("file_name")
        if number is None or not isinstance(name, str):
            raise _no_coco(path, "an image in it has no 'id' or no 'file_name'")
        name = safe_image_id(name, "COCO file_name")
        if names.setdefault(number, name) != name:
            # The captions of one would become those of the other.
            raise CaptionerError(
                f"--annotations {str(path)!r}: images {names[number]!r} and {name!r} have the same id {number!r}; "
                "give each its own"
            )
    return names


def _no_coco(path: Path, reason: str) -> CaptionerError:
    return CaptionerError(
        f"--annotations {str(path)!r} is no COCO captions JSON ({reason}); name another file"
    )


def _is_text(value: Any) -> TypeGuard[str]:
    """Whether it is a string with something in it that UTF-8 can say: JSON's can hold halves of characters."""
    return isinstance(value, str) and bool(single_line(value)) and not _HALVES.search(value)
