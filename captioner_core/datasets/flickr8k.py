"""Flickr8k (Hodosh, Young and Hockenmaier 2013) from its two zip files, or as Kaggle offers it."""

from __future__ import annotations

import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from captioner_core.datasets.base import (
    DatasetSummary,
    DatasetWriter,
    describe_no_pair,
    import_images,
    limited,
)
from captioner_core.datasets.csv_captions import read_captions
from captioner_core.datasets.source_text import decode_source, split_lines
from captioner_core.errors import CaptionerError
from captioner_core.security.archives import check_members
from captioner_core.text.vocabulary import single_line
from captioner_core.weights.downloads import DownloadError, download, locked

IMAGES_ZIP = "Flickr8k_Dataset.zip"
TEXT_ZIP = "Flickr8k_text.zip"
_MAX_MEMBERS = 100_000  # the images' zip has 16,000
_MAX_BYTES = {
    IMAGES_ZIP: 8 << 30,
    TEXT_ZIP: 256 << 20,
}  # inflated; Flickr8k's own have 1.2 GB and 10 MB
_KAGGLE_CAPTIONS = "captions.txt"
_KAGGLE_IMAGES = ("Images", "images")
_ADDRESS = "https://github.com/jbrownlee/Datasets/releases/download/Flickr8k/"
_LICENCE = (
    "Flickr8k is offered for non-commercial research and teaching; its photographs belong to their owners on Flickr. "
    "Cite Hodosh, Young and Hockenmaier (2013), Framing Image Description as a Ranking Task, JAIR 47."
)
_TOKENS = "Flickr8k.token.txt"
_LISTS = {
    "train": "Flickr_8k.trainImages.txt",
    "dev": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}


def options(limit: int | None = None) -> dict[str, Any]:
    """What a dataset built with these arguments says that it was asked for."""
    return {"dataset": "flickr8k", "limit": limit}


def build(
    output: Path,
    *,
    source: Path | None,
    cache: Path,
    limit: int | None = None,
    collection: str | None = None,
) -> DatasetSummary:
    """Makes a dataset folder of Flickr8k with its own splits.

    Kaggle's form, a folder ``Images`` and a ``captions.txt``, has no lists of the splits. Put
    ``Flickr_8k.trainImages.txt`` and the other two beside it to have them; without them 80 % of the
    images are train, 10 % dev and 10 % test, by the id alone.

    Args:
      output: the dataset folder.
      source: folder with the two zips, or with Kaggle's files; the zips are downloaded where None.
      cache: where downloads are kept.
      limit: number of images, over all splits by their shares; all where None.
      collection: name of the collection that the images belong to; ``flickr8k`` where None.

    Raises:
      CaptionerError: a zip is missing, damaged, or holds an entry that would lie outside its folder;
        Kaggle's captions are not strictly CSV; or no image has both a file and a caption.
    """
    collection = collection or "flickr8k"
    folder = source or _downloaded(cache)
    kaggle_images = next(
        (folder / name for name in _KAGGLE_IMAGES if (folder / name).is_dir()), None
    )
    has_zips = all((folder / name).is_file() for name in (TEXT_ZIP, IMAGES_ZIP))
    if not has_zips and kaggle_images is not None and (folder / _KAGGLE_CAPTIONS).is_file():
        return _build_from_kaggle(output, folder, kaggle_images, limit, collection)
    for name in (TEXT_ZIP, IMAGES_ZIP):
        if not (folder / name).is_file():
            raise CaptionerError(
                f"{name} is not in {str(folder)!r}, nor are Kaggle's {_KAGGLE_IMAGES[0]}/ and {_KAGGLE_CAPTIONS}; "
                "put it there or leave FLICKR8K_DIR out to download it"
            )
    zips = [folder / name for name in (TEXT_ZIP, IMAGES_ZIP)]
    writer = DatasetWriter(
        output, "flickr8k", options(limit), _LICENCE, inputs={"zip": zips}, collection=collection
    )
    try:
        with (
            zipfile.ZipFile(folder / TEXT_ZIP) as text,
            zipfile.ZipFile(folder / IMAGES_ZIP) as images,
        ):
            return _build(writer, text, images, limit)
    except (
        zipfile.BadZipFile,
        zlib.error,
        UnicodeDecodeError,
        EOFError,
        NotImplementedError,
    ) as error:
        raise CaptionerError(
            f"a Flickr8k zip in {str(folder)!r} is damaged ({error}); fetch it again"
        ) from error


def _build(
    writer: DatasetWriter, text: zipfile.ZipFile, images: zipfile.ZipFile, limit: int | None
) -> DatasetSummary:
    files = _files(text, TEXT_ZIP)
    if _TOKENS not in files:
        raise CaptionerError(f"{TEXT_ZIP} has no {_TOKENS}; fetch it again")
    pictures = _files(images, IMAGES_ZIP)
    captions = _captions(writer, decode_source(text.read(files[_TOKENS]), _TOKENS))
    splits: dict[str, str] = {}
    for split, name in _LISTS.items():
        if name not in files:
            writer.left_out[f"missing list {name}"] = 1
            continue
        for image_id in _listed(text.read(files[name]), name):
            splits.setdefault(image_id, split)
    usable = {i: split for i, split in splits.items() if i in pictures and captions.get(i)}
    if not usable:
        captioned = [image_id for image_id in captions if image_id in splits]
        raise CaptionerError(describe_no_pair(captioned, list(pictures), IMAGES_ZIP))
    writer.left_out["listed images that have no file or no caption"] = len(splits) - len(usable)
    writer.left_out["images in no list"] = len(pictures.keys() - splits.keys())
    writer.left_out["captions without their image"] = sum(
        len(c) for i, c in captions.items() if i not in pictures
    )
    writer.left_out["images without a caption"] = sum(1 for i in pictures if not captions.get(i))
    chosen = limited(usable, limit)
    writer.left_out["images over the limit"] = len(usable) - len(chosen)
    with writer:
        if chosen:
            writer.check_images(chosen)
        for image_id in chosen:
            if not _is_extracted(writer, image_id, pictures[image_id]):
                with (
                    images.open(pictures[image_id]) as packed,
                    writer.stage(image_id).open("wb") as file,
                ):
                    shutil.copyfileobj(packed, file)
        return writer.finish({image_id: captions[image_id] for image_id in chosen}, chosen)


def _build_from_kaggle(
    output: Path, folder: Path, images: Path, limit: int | None, collection: str | None
) -> DatasetSummary:
    found = read_captions(folder / _KAGGLE_CAPTIONS)
    lists = {split: folder / name for split, name in _LISTS.items() if (folder / name).is_file()}
    splits: dict[str, str] = {}
    for split, path in lists.items():
        for image_id in _listed(path.read_bytes(), path.name):
            splits.setdefault(image_id, split)
    if not lists:
        splits = found.splits
    # Figures on splits that are not Flickr8k's own don't compare with the literature's: the name says so.
    name = "flickr8k" if lists else "flickr8k-kaggle"
    read = {"--source": [images, folder / _KAGGLE_CAPTIONS]}
    writer = DatasetWriter(
        output, name, options(limit), _LICENCE, inputs=read, collection=collection
    )
    for missing in [
        list_name for split, list_name in _LISTS.items() if lists and split not in lists
    ]:
        writer.left_out[f"missing list {missing}"] = 1
    writer.left_out["lines without image or caption"] = found.empty
    listed = {image_id: texts for image_id, texts in found.captions.items() if image_id in splits}
    writer.left_out["images in no list"] = len(found.captions) - len(listed)
    return import_images(writer, images, listed, splits, limit)


def _listed(data: bytes, name: str) -> list[str]:
    """Returns the images that one of the lists of a split names, one a line."""
    lines = (line.strip() for line in split_lines(decode_source(data, name)))
    return [line for line in lines if line]


def _files(archive: zipfile.ZipFile, what: str) -> Mapping[str, zipfile.ZipInfo]:
    """The archive's files by their base names; every entry must be harmless, used or not."""
    try:
        members = check_members(archive, max_members=_MAX_MEMBERS, max_bytes=_MAX_BYTES[what])
    except ValueError as error:
        raise CaptionerError(
            f"{what}: {error}; such an archive is not used, fetch it again"
        ) from error
    files = {}
    for info in members:
        path = PurePosixPath(info.filename.replace("\\", "/"))
        if not info.is_dir() and path.parts[0] != "__MACOSX" and not path.name.startswith("._"):
            files[path.name] = info
    return files


def _captions(writer: DatasetWriter, text: str) -> dict[str, list[str]]:
    """Captions by image, from lines ``name.jpg#number<TAB>caption``."""
    captions: dict[str, list[str]] = {}
    for line in split_lines(text):
        key, tab, caption = line.partition("\t")
        image_id, sign, _ = key.rpartition("#")
        caption = single_line(caption)
        if tab and sign and caption:
            captions.setdefault(image_id, []).append(caption)
        elif line.strip():
            writer.left_out["lines that are no caption"] += 1
    return captions


def _is_extracted(writer: DatasetWriter, image_id: str, info: zipfile.ZipInfo) -> bool:
    """Returns whether an earlier call put this very image into the dataset."""
    path = writer.images / image_id
    return (
        writer.has(image_id)
        and path.stat().st_size == info.file_size
        and zlib.crc32(path.read_bytes()) == info.CRC
    )


def _downloaded(cache: Path) -> Path:
    folder = cache / "flickr8k"
    try:
        with locked(folder / "lock"):
            for name in _missing(folder):
                download(_ADDRESS + name, folder / name)
    except DownloadError as error:
        names = f"{IMAGES_ZIP} and {TEXT_ZIP}"
        raise CaptionerError(
            f"{error}; put {names} into a folder and name it with FLICKR8K_DIR, or try again"
        ) from error
    return folder


def _missing(folder: Path) -> Iterator[str]:
    for name in (TEXT_ZIP, IMAGES_ZIP):
        if not (folder / name).exists():
            yield name
