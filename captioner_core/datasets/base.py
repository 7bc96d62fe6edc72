"""The form of a dataset folder, and what making one from any source shares.

``DIR/images/`` holds the images, ``DIR/captions.parquet`` the captions; ``DIR/dataset.json``
is written last and says that the folder is whole, what it was made of, and what was left out.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow.parquet as pq

from captioner_core import layout, storage
from captioner_core.archives import is_outside
from captioner_core.errors import CaptionerError
from captioner_core.plain_json import parse_json
from captioner_core.schemas import DATASET_CAPTIONS_SCHEMA, DatasetCaptionRow, rows_as_table

SPLITS = DatasetCaptionRow.SPLITS


@dataclass(frozen=True)
class DatasetSummary:
    """What a dataset came to.

    Args:
      name: of the dataset.
      options: what it was asked for.
      images: number of images by split.
      captions: number of captions.
      left_out: what was not used, and how much of it, by a sentence's subject such as
        ``images without a caption``.
      licence: what its owners allow, a sentence.
    """

    name: str
    options: Mapping[str, Any]
    images: Mapping[str, int]
    captions: int
    left_out: Mapping[str, int] = field(default_factory=dict)
    licence: str = ""

    def lines(self) -> list[str]:
        """The summary for a person; what was left out is said even where it is little."""
        splits = ", ".join(f"{count} {split}" for split, count in self.images.items())
        first = f"dataset {self.name}: {sum(self.images.values())} images ({splits}), {self.captions} captions"
        return [first, *(f"dataset {self.name}: left out {n} {what}" for what, n in self.left_out.items() if n)]


class DatasetWriter:
    """Makes a dataset folder.

    Entering it withdraws the mark of wholeness that an older one has; ``finish`` sets it again.

    Args:
      output: the folder.
      name: of the dataset.
      options: what was asked for; ``is_built`` compares them.
      licence: what the data's owners allow; model cards state it.
    """

    def __init__(self, output: Path, name: str, options: Mapping[str, Any], licence: str = "") -> None:
        self._output, self._name, self._options, self._licence = output, name, dict(options), licence
        self.images = output / layout.DATASET_IMAGES
        self.left_out: Counter[str] = Counter()
        self.images.mkdir(parents=True, exist_ok=True)
        (output / layout.DATASET_SUMMARY).unlink(missing_ok=True)

    def finish(self, captions: Mapping[str, Sequence[str]], splits: Mapping[str, str]) -> DatasetSummary:
        """Writes the captions, removes images of an older dataset, and marks the folder as whole.

        Args:
          captions: image id to its captions.
          splits: image id to its split.

        Raises:
          CaptionerError: there is no image, so the source is not what it should be.
        """
        if not captions:
            raise CaptionerError(f"dataset {self._name!r}: no image has both a file and a caption; check the source")
        rows = [
            DatasetCaptionRow(image_id, number, caption, splits[image_id])
            for image_id in sorted(captions)
            for number, caption in enumerate(captions[image_id])
        ]
        table = rows_as_table(rows, self._name, DATASET_CAPTIONS_SCHEMA)
        target = self._output / layout.DATASET_CAPTIONS
        pq.write_table(table, target.with_suffix(".tmp"), compression="zstd")
        os.replace(target.with_suffix(".tmp"), target)
        self._remove_others(set(captions))
        counts = Counter(splits[image_id] for image_id in captions)
        images = {split: counts[split] for split in SPLITS if counts[split]}
        summary = DatasetSummary(self._name, self._options, images, len(rows), dict(self.left_out), self._licence)
        storage.write_json(str(self._output / layout.DATASET_SUMMARY), dataclasses.asdict(summary))
        return summary

    def _remove_others(self, image_ids: set[str]) -> None:
        for path in self.images.rglob("*"):
            if path.is_file() and path.relative_to(self.images).as_posix() not in image_ids:
                path.unlink()


def is_built(output: Path, options: Mapping[str, Any]) -> bool:
    """Whether a whole dataset made with these options is there."""
    try:
        summary = parse_json((output / layout.DATASET_SUMMARY).read_bytes())
        return bool(summary["options"] == dict(options)) and (output / layout.DATASET_CAPTIONS).is_file()
    except (OSError, ValueError, KeyError, TypeError):
        return False


def safe_image_id(name: str, what: str) -> str:
    """An image id that stays below its folder.

    Raises:
      CaptionerError: absolute, a drive, ``..``, a NUL, or empty.
    """
    if is_outside(name):
        raise CaptionerError(f"{what} {name!r} would lie outside its folder; such a source is not used, mend it")
    return str(PurePosixPath(name.replace("\\", "/")))


def link_or_copy(source: Path, target: Path) -> None:
    """Puts a file in place, as a hard link where that can be had; replaces what is there."""
    if target.exists() and os.path.samefile(source, target):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def link_split(dataset: Path, folder: Path, image_ids: Iterable[str]) -> None:
    """Makes a folder of some of a dataset's images and no others."""
    wanted = {safe_image_id(image_id, "image id") for image_id in image_ids}
    folder.mkdir(parents=True, exist_ok=True)
    for path in [path for path in folder.rglob("*") if path.is_file() or path.is_symlink()]:
        if path.relative_to(folder).as_posix() not in wanted:
            path.unlink()
    images = dataset / layout.DATASET_IMAGES
    root = images.resolve()
    for image_id in wanted:
        source = images / image_id
        if _is_file_below(source, root):
            link_or_copy(source, folder / image_id)


def split_by_hash(image_id: str) -> str:
    """80 % train, 10 % dev, 10 % test, by the id alone, so that more images move none."""
    share = hash_order(image_id)[0] / 256
    return "train" if share < 0.8 else "dev" if share < 0.9 else "test"


def hash_order(image_id: str) -> bytes:
    """A key that sorts images at random, the same way every time."""
    return hashlib.sha256(image_id.encode("utf-8")).digest()


def limited(splits: Mapping[str, str], limit: int | None) -> dict[str, str]:
    """About ``limit`` of the images, each split by its share and none emptied.

    Raises:
      CaptionerError: the limit is lower than the number of splits.
    """
    if limit is None or limit >= len(splits):
        return dict(splits)
    by_split: dict[str, list[str]] = {}
    for image_id in sorted(splits, key=hash_order):
        by_split.setdefault(splits[image_id], []).append(image_id)
    if limit < len(by_split):
        raise CaptionerError(
            f"limit {limit} leaves no image for some of {len(by_split)} splits; give {len(by_split)} or more"
        )
    sizes = {split: max(1, limit * len(ids) // len(splits)) for split, ids in by_split.items()}
    rest = limit - sum(sizes.values())
    for split in sorted(by_split, key=lambda split: -len(by_split[split])):  # the largest gives or takes first
        change = min(rest, len(by_split[split]) - sizes[split])
        sizes[split] += change
        rest -= change
    return {image_id: split for split, ids in by_split.items() for image_id in ids[: sizes[split]]}


def import_images(
    writer: DatasetWriter,
    images: Path,
    captions: Mapping[str, Sequence[str]],
    splits: Mapping[str, str],
    limit: int | None,
) -> DatasetSummary:
    """Links the images that have captions into a dataset, and counts what is missing on either side.

    Raises:
      CaptionerError: the images folder is missing, or no image has both a file and a caption.
    """
    if not images.is_dir():
        raise CaptionerError(f"images folder {str(images)!r} is not a folder; name one with --images")
    root = images.resolve()
    usable = {i for i in captions if captions[i] and _is_file_below(images / i, root)}
    listed = list(_image_ids(images))
    if not usable:
        raise CaptionerError(describe_no_pair([i for i in captions if captions[i]], listed, str(images)))
    writer.left_out["captions without their image"] = sum(len(captions[i]) for i in captions if i not in usable)
    writer.left_out["images without a caption"] = sum(1 for i in listed if not captions.get(i))
    chosen = limited({image_id: splits[image_id] for image_id in sorted(usable)}, limit)
    writer.left_out["images over the limit"] = len(usable) - len(chosen)
    for image_id in chosen:
        link_or_copy(images / image_id, writer.images / image_id)
    return writer.finish({image_id: captions[image_id] for image_id in chosen}, chosen)


def describe_no_pair(captioned: Sequence[str], files: Sequence[str], where: str) -> str:
    """Returns a line that says, with an example of each, why no image has both a file and a caption.

    Args:
      captioned: ids of the images that have captions.
      files: ids of the images that have files.
      where: the folder or archive that holds the files.
    """
    problem = "no image has both a file and a caption"
    if not captioned:
        return f"{problem}: the source holds no caption of an image; name another source"
    if not files:
        return f"{problem}: the captions name {captioned[0]!r}, but {where!r} holds no images; name the images' folder"
    by_name = {PurePosixPath(file).name: file for file in files}
    same = next((image_id for image_id in captioned if PurePosixPath(image_id).name in by_name), captioned[0])
    file = by_name.get(PurePosixPath(same).name, files[0])
    remedy = "use the files' names in the captions, or name another folder"
    if file.endswith(f"/{same}"):
        remedy = f"name {str(Path(where, file.removesuffix(f'/{same}')))!r} as the images' folder"
    return f"{problem}: the captions name {same!r}, and {where!r} holds {file!r} instead; {remedy}"


def _is_file_below(path: Path, root: Path) -> bool:
    try:
        return path.is_file() and path.resolve().is_relative_to(root)
    except OSError:  # a name longer than names can be, or a folder that may not be looked into
        return False


def _image_ids(images: Path) -> Iterator[str]:
    from captioner_core.listing import list_images
    from captioner_core.schemas import ImageRef

    for entry in list_images(str(images)):
        if isinstance(entry, ImageRef):
            yield entry.image_id
