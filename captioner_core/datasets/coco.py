"""Builds a dataset from captions in COCO's JSON (Chen et al. 2015, arXiv:1504.00325)."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from captioner_core.datasets.dataset_folder import DatasetSummary, DatasetWriter
from captioner_core.datasets.sources import import_images, safe_image_id
from captioner_core.errors import CaptionerError
from captioner_core.io.json_text import parse_json
from captioner_core.tables.splits import SPLIT_NAMES, canonical_split
from captioner_core.text.vocabulary import single_line

_Id = int | float | str
_JsonObject = Mapping[str, Any]
_SURROGATES = re.compile("[\ud800-\udfff]")
_SHAPE_KEYS = ("bbox", "segmentation", "keypoints", "segments_info")
"""Keys that show that a file annotates instances, persons or panoptic segments, not captions."""


def build(
    output: Path,
    *,
    annotations: Mapping[str, Path | Sequence[Path]],
    images: Path,
    limit: int | None = None,
    collection: str | None = None,
) -> DatasetSummary:
    """Builds a dataset folder from COCO captions.

    Args:
      output: the dataset folder.
      annotations: JSON file or files of each split, such as ``captions_train2017.json``.
      images: folder with the images of all splits, which are linked if possible, else copied.
      limit: number of images to use; None uses all.
      collection: name of the collection that the images belong to. None derives it from the folder.

    Raises:
      CaptionerError: a file is missing or holds no COCO captions, a file name leads out of the
        images folder, a split is unknown, or an image is in two splits.
    """
    files = _files_by_split(annotations)
    options = {
        "dataset": "coco",
        "annotations": {split: _as_option(paths) for split, paths in files.items()},
        "images": str(images),
        "limit": limit,
    }
    captions: dict[str, list[str]] = {}
    splits: dict[str, str] = {}
    left_out: Counter[str] = Counter()
    split_files = [(split, path) for split, paths in files.items() for path in paths]
    for split, path in split_files:
        for image_id, caption in _read_captions(path, left_out):
            if splits.setdefault(image_id, split) != split:
                # Otherwise a model would be evaluated on images that it was trained on.
                raise CaptionerError(
                    f"--annotations {str(path)!r}: image {image_id!r} is in split {split!r} here "
                    f"and in {splits[image_id]!r} of another file; "
                    "put all its captions into one split"
                )
            captions.setdefault(image_id, []).append(caption)
    inputs = {"--annotations": [path for _, path in split_files], "--images": [images]}
    writer = DatasetWriter(output, "coco", options, inputs=inputs, collection=collection)
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


def _as_option(paths: Sequence[Path]) -> str | list[str]:
    """Returns a split's files as dataset.json records them: several names as a list, one as text.

    Earlier versions recorded one name as text, so ``is_built`` still recognizes their datasets.
    """
    names = [str(path) for path in paths]
    return names[0] if len(names) == 1 else names


def _read_captions(path: Path, left_out: Counter[str]) -> list[tuple[str, str]]:
    """Returns the image id and the caption of each usable annotation in a file.

    Args:
      path: the JSON file.
      left_out: the counter that unusable annotations are added to.

    Raises:
      CaptionerError: the file can't be read, is no JSON of COCO's form, or holds no captions.
    """
    try:
        value: object = parse_json(path.read_bytes())
    except OSError as error:
        raise CaptionerError(
            f"--annotations {str(path)!r} can't be read ({error.strerror}); name a JSON file"
        ) from error
    except ValueError as error:
        raise _not_coco(path, f"it is not JSON: {error}") from error
    images = _objects_at(value, "images", path)
    annotations = _objects_at(value, "annotations", path)
    _check_captions(annotations, path)
    names = _names_by_id(images, path)
    ids = [_id_at(annotation, "image_id") for annotation in annotations]
    if annotations and not any(image_id in names for image_id in ids):
        raise CaptionerError(
            f"--annotations {str(path)!r}: no caption is of a listed image: "
            f"{annotations[0].get('image_id')!r} is not among the ids of 'images', "
            f"such as {next(iter(names), None)!r}; correct the ids"
        )
    captions = []
    for image_id, annotation in zip(ids, annotations, strict=True):
        name = names.get(image_id)
        caption = annotation.get("caption")
        if _is_text(name) and _is_text(caption):
            captions.append((name, single_line(caption)))
    left_out["annotations without text or of no listed image"] += len(annotations) - len(captions)
    return captions


def _objects_at(value: object, key: str, path: Path) -> list[_JsonObject]:
    """Returns the list of JSON objects under a key of the file's top-level object."""
    if isinstance(value, list):
        raise _not_coco(path, "it is a list, as COCO's results are, without the images' names")
    if not isinstance(value, dict) or key not in value:
        raise _not_coco(path, f"it has no {key!r}")
    items = value[key]
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise _not_coco(path, f"its {key!r} is no list of objects")
    return items


def _check_captions(annotations: Sequence[_JsonObject], path: Path) -> None:
    """Checks that annotations hold captions.

    Raises:
      CaptionerError: no annotation has a caption.
    """
    if not annotations or any("caption" in annotation for annotation in annotations):
        return
    shape_key = next((key for key in _SHAPE_KEYS if key in annotations[0]), None)
    if shape_key is None:
        raise _not_coco(path, "its annotations have no 'caption'")
    raise CaptionerError(
        f"--annotations {str(path)!r} holds boxes or outlines of objects ({shape_key!r}) and no "
        "captions; name the file of the same images whose name begins with captions_"
    )


def _id_at(item: _JsonObject, key: str) -> _Id | None:
    value = item.get(key)
    return value if isinstance(value, _Id) else None


def _names_by_id(images: Sequence[_JsonObject], path: Path) -> dict[_Id | None, str]:
    """Returns the image id that captioner uses for each of COCO's ids.

    Raises:
      CaptionerError: an image has no id or no name, its name leads out of the images folder, or
        two images have the same id.
    """
    names: dict[_Id | None, str] = {}
    for image in images:
        coco_id = _id_at(image, "id")
        name = image.get("file_name")
        if coco_id is None or not isinstance(name, str):
            raise _not_coco(path, "an image in it has no 'id' or no 'file_name'")
        name = safe_image_id(name, "COCO file_name")
        if names.setdefault(coco_id, name) != name:
            # Otherwise one image would get the captions of both.
            raise CaptionerError(
                f"--annotations {str(path)!r}: images {names[coco_id]!r} and {name!r} have the "
                f"same id {coco_id!r}; give each its own"
            )
    return names


def _not_coco(path: Path, reason: str) -> CaptionerError:
    return CaptionerError(
        f"--annotations {str(path)!r} is no COCO captions JSON ({reason}); name another file"
    )


def _is_text(value: object) -> TypeGuard[str]:
    """Returns whether a value is text with visible characters that UTF-8 can encode.

    JSON can hold half of a surrogate pair, which no table can store.
    """
    return isinstance(value, str) and bool(single_line(value)) and not _SURROGATES.search(value)
