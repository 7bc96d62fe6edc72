"""Flickr8k (Hodosh, Young and Hockenmaier 2013) from its two zip files."""

from __future__ import annotations

import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from captioner_core.archives import check_members
from captioner_core.datasets.base import DatasetSummary, DatasetWriter, limited
from captioner_core.downloads import DownloadError, download, locked
from captioner_core.errors import CaptionerError

IMAGES_ZIP = "Flickr8k_Dataset.zip"
TEXT_ZIP = "Flickr8k_text.zip"
_MAX_MEMBERS = 100_000  # the images' zip has 16,000
_MAX_BYTES = {IMAGES_ZIP: 8 << 30, TEXT_ZIP: 256 << 20}  # inflated; Flickr8k's own have 1.2 GB and 10 MB
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


def build(output: Path, *, source: Path | None, cache: Path, limit: int | None = None) -> DatasetSummary:
    """Makes a dataset folder of Flickr8k's own splits.

    Args:
      output: the dataset folder.
      source: folder with the two zips; they are downloaded where None.
      cache: where downloads are kept.
      limit: number of images, over all splits by their shares; all where None.

    Raises:
      CaptionerError: a zip is missing, damaged, or holds an entry that would lie outside its folder.
    """
    folder = source or _downloaded(cache)
    for name in (TEXT_ZIP, IMAGES_ZIP):
        if not (folder / name).is_file():
            raise CaptionerError(
                f"{name} is not in {str(folder)!r}; put it there or leave FLICKR8K_DIR out to download it"
            )
    zips = [folder / name for name in (TEXT_ZIP, IMAGES_ZIP)]
    writer = DatasetWriter(output, "flickr8k", options(limit), _LICENCE, inputs={"zip": zips})
    try:
        with zipfile.ZipFile(folder / TEXT_ZIP) as text, zipfile.ZipFile(folder / IMAGES_ZIP) as images:
            return _build(writer, text, images, limit)
    except (zipfile.BadZipFile, zlib.error, UnicodeDecodeError, EOFError, NotImplementedError) as error:
        raise CaptionerError(f"a Flickr8k zip in {str(folder)!r} is damaged ({error}); fetch it again") from error


def _build(writer: DatasetWriter, text: zipfile.ZipFile, images: zipfile.ZipFile, limit: int | None) -> DatasetSummary:
    files = _files(text, TEXT_ZIP)
    if _TOKENS not in files:
        raise CaptionerError(f"{TEXT_ZIP} has no {_TOKENS}; fetch it again")
    pictures = _files(images, IMAGES_ZIP)
    captions = _captions(writer, text.read(files[_TOKENS]).decode("utf-8"))
    splits: dict[str, str] = {}
    for split, name in _LISTS.items():
        if name not in files:
            writer.left_out[f"missing list {name}"] = 1
            continue
        for image_id in text.read(files[name]).decode("utf-8").split():
            splits.setdefault(image_id, split)
    usable = {i: split for i, split in splits.items() if i in pictures and captions.get(i)}
    writer.left_out["listed images that have no file or no caption"] = len(splits) - len(usable)
    writer.left_out["images in no list"] = len(pictures.keys() - splits.keys())
    writer.left_out["captions without their image"] = sum(len(c) for i, c in captions.items() if i not in pictures)
    writer.left_out["images without a caption"] = sum(1 for i in pictures if not captions.get(i))
    chosen = limited(usable, limit)
    writer.left_out["images over the limit"] = len(usable) - len(chosen)
    with writer:
        if chosen:
            writer.check_images(chosen)
        for image_id in chosen:
            if not _is_extracted(writer, image_id, pictures[image_id]):
                with images.open(pictures[image_id]) as packed, writer.stage(image_id).open("wb") as file:
                    shutil.copyfileobj(packed, file)
        return writer.finish({image_id: captions[image_id] for image_id in chosen}, chosen)


def _files(archive: zipfile.ZipFile, what: str) -> Mapping[str, zipfile.ZipInfo]:
    """The archive's files by their base names; every entry must be harmless, used or not."""
    try:
        members = check_members(archive, max_members=_MAX_MEMBERS, max_bytes=_MAX_BYTES[what])
    except ValueError as error:
        raise CaptionerError(f"{what}: {error}; such an archive is not used, fetch it again") from error
    files = {}
    for info in members:
        path = PurePosixPath(info.filename.replace("\\", "/"))
        if not info.is_dir() and path.parts[0] != "__MACOSX" and not path.name.startswith("._"):
            files[path.name] = info
    return files


def _captions(writer: DatasetWriter, text: str) -> dict[str, list[str]]:
    """Captions by image, from lines ``name.jpg#number<TAB>caption``."""
    captions: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, tab, caption = line.partition("\t")
        image_id, sign, _ = key.rpartition("#")
        if tab and sign and caption.strip():
            captions.setdefault(image_id, []).append(caption.strip())
        elif line.strip():
            writer.left_out["lines that are no caption"] += 1
    return captions


def _is_extracted(writer: DatasetWriter, image_id: str, info: zipfile.ZipInfo) -> bool:
    """Returns whether an earlier call put this very image into the dataset."""
    path = writer.images / image_id
    return writer.has(image_id) and path.stat().st_size == info.file_size and zlib.crc32(path.read_bytes()) == info.CRC


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
