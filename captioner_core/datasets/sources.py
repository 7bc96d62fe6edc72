"""Reads the images and captions of a source into a dataset folder; every kind of source uses this.

The functions here check the source's image ids, assign splits, select images up to a limit, pair
images with captions, and explain why there is no pair.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from captioner_core.datasets.dataset_folder import DatasetSummary, DatasetWriter
from captioner_core.errors import CaptionerError
from captioner_core.images import image_ids, listing
from captioner_core.security.archives import is_outside
from captioner_core.tables.schemas import ImageRef


def safe_image_id(name: str, what: str) -> str:
    """Returns the image id for a file name of a source, with ``/`` between folders.

    >>> safe_image_id(r"day1\\IMG_1.jpg", "file name")
    'day1/IMG_1.jpg'
    >>> safe_image_id("../secret.jpg", "file name")
    Traceback (most recent call last):
    captioner_core.errors.CaptionerError: file name '../secret.jpg' would lie ...

    Args:
      name: the path of an image below its folder, as the source writes it.
      what: what the name is, for the error message.

    Raises:
      CaptionerError: the name is empty or absolute, or contains a drive, ``..`` or a NUL, so the
        file could lie outside its folder.
    """
    image_id = image_ids.with_slashes(name)
    if is_outside(name) or is_outside(os.fsdecode(image_ids.file_name_of(image_id))):
        raise CaptionerError(f"{what} {name!r} would lie outside its folder; correct the source")
    return str(PurePosixPath(image_id))


def link_or_copy(source: Path, target: Path) -> None:
    """Creates a file with another file's content: a hard link if possible, otherwise a copy.

    The target must not exist. Once linked, neither of the two names may be opened for writing.
    """
    try:
        os.link(os.path.realpath(source), target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


def split_by_hash(image_id: str) -> str:
    """Returns the split of an image by its id alone: 80 % train, 10 % dev and 10 % test.

    An image stays in its split when other images are added.

    >>> [split_by_hash(f"{number}.jpg") for number in range(5)]
    ['train', 'train', 'train', 'dev', 'train']
    """
    fraction = _hash_key(image_id)[0] / 256
    if fraction < 0.8:
        return "train"
    return "dev" if fraction < 0.9 else "test"


def _hash_key(image_id: str) -> bytes:
    """Returns a sort key that shuffles images, always in the same way."""
    return hashlib.sha256(image_id.encode("utf-8")).digest()


def limit_images(splits: Mapping[str, str], limit: int | None) -> dict[str, str]:
    """Returns a pseudo-random selection of images that keeps the proportions of the splits.

    Every split keeps at least one image. The same arguments always give the same selection.

    Args:
      splits: split of each image, by image id.
      limit: number of images to select; None selects all.

    Raises:
      CaptionerError: the limit is lower than the number of splits.
    """
    if limit is None or limit >= len(splits):
        return dict(splits)
    by_split: dict[str, list[str]] = {}
    for image_id in sorted(splits, key=_hash_key):
        by_split.setdefault(splits[image_id], []).append(image_id)
    if limit < len(by_split):
        raise CaptionerError(
            f"limit {limit} leaves no image for some of {len(by_split)} splits; "
            f"give {len(by_split)} or more"
        )
    sizes = {split: max(1, limit * len(ids) // len(splits)) for split, ids in by_split.items()}
    # Rounding leaves some images over or takes too many; the largest splits absorb the difference.
    rest = limit - sum(sizes.values())
    for split in sorted(by_split, key=lambda split: -len(by_split[split])):
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
    """Writes a dataset of the images in a folder that have captions, and counts what is left out.

    Args:
      writer: the dataset to write.
      images: folder with the images, which are linked if possible, otherwise copied.
      captions: captions of each image, by image id.
      splits: split of each image, by image id.
      limit: number of images to use; None uses all.

    Raises:
      CaptionerError: the images folder is missing, or no image has both a file and a caption.
    """
    if not images.is_dir():
        raise CaptionerError(
            f"images folder {str(images)!r} is not a folder; name one with --images"
        )
    root = images.resolve()
    captioned = [image_id for image_id in captions if captions[image_id]]
    paired = {i for i in captioned if is_file_below(image_ids.path_of(images, i), root)}
    files = [
        entry.image_id for entry in listing.list_images(str(images)) if isinstance(entry, ImageRef)
    ]
    if not paired:
        raise CaptionerError(describe_no_pair(captioned, files, str(images)))
    writer.left_out["captions without their image"] = sum(
        len(captions[image_id]) for image_id in captioned if image_id not in paired
    )
    writer.left_out["images without a caption"] = sum(not captions.get(file) for file in files)

    def add_image(image_id: str) -> None:
        """Links an image into the dataset, unless an earlier call has done so."""
        source = image_ids.path_of(images, image_id)
        target = image_ids.path_of(writer.images, image_id)
        if not (writer.has(image_id) and os.path.samefile(source, target)):
            link_or_copy(source, writer.stage(image_id))

    usable = {image_id: splits[image_id] for image_id in sorted(paired)}
    return write_limited(writer, captions, usable, limit, add_image)


def write_limited(
    writer: DatasetWriter,
    captions: Mapping[str, Sequence[str]],
    splits: Mapping[str, str],
    limit: int | None,
    add_image: Callable[[str], None],
) -> DatasetSummary:
    """Writes a dataset of at most ``limit`` images, and counts the other images as left out.

    Args:
      writer: the dataset to write.
      captions: captions of each image, by image id.
      splits: split of each usable image, by image id; not empty.
      limit: number of images to use; None uses all.
      add_image: adds the image with the given id to the dataset.

    Raises:
      CaptionerError: the limit is lower than the number of splits, or a file that captioner did
        not make is in the way.
    """
    selected = limit_images(splits, limit)
    writer.left_out["images over the limit"] = len(splits) - len(selected)
    with writer:
        writer.check_images(selected)
        for image_id in selected:
            add_image(image_id)
        return writer.finish({image_id: captions[image_id] for image_id in selected}, selected)


def describe_no_pair(captioned: Sequence[str], files: Sequence[str], where: str) -> str:
    """Returns an error message on why no image has both a file and a caption, with examples.

    Args:
      captioned: ids of the images that have captions.
      files: ids of the images that have files.
      where: the folder or archive that holds the files.
    """
    problem = "no image has both a file and a caption"
    if not captioned:
        return f"{problem}: the source holds no caption of an image; name another source"
    if not files:
        return (
            f"{problem}: the captions name {captioned[0]!r}, but {where!r} holds no images; "
            "name the images' folder"
        )
    # An image and a file of the same name in different folders make the most helpful example.
    by_name = {PurePosixPath(file).name: file for file in files}
    same_name = (image_id for image_id in captioned if PurePosixPath(image_id).name in by_name)
    image_id = next(same_name, captioned[0])
    file = by_name.get(PurePosixPath(image_id).name, files[0])
    if file.endswith(f"/{image_id}"):
        folder = str(Path(where, file.removesuffix(f"/{image_id}")))
        remedy = f"name {folder!r} as the images' folder"
    else:
        remedy = "use the files' names in the captions, or name another folder"
    return (
        f"{problem}: the captions name {image_id!r}, and {where!r} holds {file!r} instead; {remedy}"
    )


def is_file_below(path: Path, root: Path) -> bool:
    """Returns whether a path leads to a file below a folder, after following links."""
    try:
        return path.is_file() and path.resolve().is_relative_to(root)
    except OSError:  # the name is too long, or a folder on the way can't be read
        return False
