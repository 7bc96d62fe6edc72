"""Builds Flickr8k (Hodosh, Young and Hockenmaier 2013) from its two zips or from Kaggle's files."""

import shutil
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from captioner_core.datasets import csv_captions, source_text, sources
from captioner_core.datasets.dataset_folder import DatasetSummary, DatasetWriter
from captioner_core.errors import CaptionerError
from captioner_core.security.archives import check_members
from captioner_core.text.vocabulary import single_line
from captioner_core.weights.downloads import DownloadError, download, locked

IMAGES_ZIP = "Flickr8k_Dataset.zip"
TEXT_ZIP = "Flickr8k_text.zip"
_MAX_MEMBERS = 100_000  # The images' zip has 16,000.
# Limits on the uncompressed size; Flickr8k's own zips hold 1.2 GB and 10 MB.
_MAX_BYTES = {IMAGES_ZIP: 8 << 30, TEXT_ZIP: 256 << 20}
_KAGGLE_CAPTIONS = "captions.txt"
_KAGGLE_IMAGES = ("Images", "images")
_BASE_URL = "https://github.com/jbrownlee/Datasets/releases/download/Flickr8k/"
_LICENCE = (
    "Flickr8k is offered for non-commercial research and teaching; its photographs belong to their "
    "owners on Flickr. Cite Hodosh, Young and Hockenmaier (2013), Framing Image Description as a "
    "Ranking Task, JAIR 47."
)
_CAPTIONS_FILE = "Flickr8k.token.txt"
_SPLIT_LISTS = {
    "train": "Flickr_8k.trainImages.txt",
    "dev": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}


def options(limit: int | None = None) -> dict[str, str | int | None]:
    """Returns the options recorded in dataset.json, which ``is_built`` compares."""
    return {"dataset": "flickr8k", "limit": limit}


def build(
    output: Path,
    *,
    source: Path | None,
    cache: Path,
    limit: int | None = None,
    collection: str | None = None,
) -> DatasetSummary:
    """Builds a dataset folder of Flickr8k with its own splits.

    Kaggle's version, a folder ``Images`` and a ``captions.txt``, has no lists of the splits. Place
    ``Flickr_8k.trainImages.txt`` and the other two beside them to use Flickr8k's own splits.
    Without the lists, 80 % of the images become train, 10 % dev and 10 % test, chosen by image id
    alone.

    Args:
      output: the dataset folder.
      source: folder with the two zips or with Kaggle's files. None downloads the zips.
      cache: folder that keeps the downloads.
      limit: number of images to use, over all splits in proportion; None uses all.
      collection: name of the collection that the images belong to; None means ``flickr8k``.

    Raises:
      CaptionerError: a zip is missing, is damaged or holds an unsafe entry, Kaggle's captions are
        not strictly CSV, or no image has both a file and a caption.
    """
    collection = collection or "flickr8k"
    folder = source or _download_zips(cache)
    zips = [folder / name for name in (TEXT_ZIP, IMAGES_ZIP)]
    missing = [path.name for path in zips if not path.is_file()]
    image_folders = (folder / name for name in _KAGGLE_IMAGES)
    kaggle_images = next((path for path in image_folders if path.is_dir()), None)
    if missing and kaggle_images is not None and (folder / _KAGGLE_CAPTIONS).is_file():
        return _build_from_kaggle(output, folder, kaggle_images, limit, collection)
    if missing:
        raise CaptionerError(
            f"{missing[0]} is not in {str(folder)!r}, nor are Kaggle's {_KAGGLE_IMAGES[0]}/ and "
            f"{_KAGGLE_CAPTIONS}; put it there or leave FLICKR8K_DIR out to download it"
        )
    writer = DatasetWriter(
        output, "flickr8k", options(limit), _LICENCE, inputs={"zip": zips}, collection=collection
    )
    try:
        with zipfile.ZipFile(zips[0]) as text, zipfile.ZipFile(zips[1]) as images:
            return _build_from_zips(writer, text, images, limit)
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


def _build_from_zips(
    writer: DatasetWriter, text: zipfile.ZipFile, images: zipfile.ZipFile, limit: int | None
) -> DatasetSummary:
    texts = _files_by_name(text, TEXT_ZIP)
    if _CAPTIONS_FILE not in texts:
        raise CaptionerError(f"{TEXT_ZIP} has no {_CAPTIONS_FILE}; fetch it again")
    files = _files_by_name(images, IMAGES_ZIP)
    captions = _read_tokens(
        writer, source_text.decode_source(text.read(texts[_CAPTIONS_FILE]), _CAPTIONS_FILE)
    )
    lists = {split: name for split, name in _SPLIT_LISTS.items() if name in texts}
    splits = _read_splits(writer, lists, lambda name: text.read(texts[name]))
    usable = {i: split for i, split in splits.items() if i in files and captions.get(i)}
    if not usable:
        captioned = [image_id for image_id in captions if image_id in splits]
        raise CaptionerError(sources.describe_no_pair(captioned, list(files), IMAGES_ZIP))
    writer.left_out["listed images that have no file or no caption"] = len(splits) - len(usable)
    writer.left_out["images in no list"] = len(files.keys() - splits.keys())
    writer.left_out["captions without their image"] = sum(
        len(captions[image_id]) for image_id in captions if image_id not in files
    )
    writer.left_out["images without a caption"] = sum(not captions.get(file) for file in files)

    def add_image(image_id: str) -> None:
        """Extracts an image into the dataset, unless an earlier call has done so."""
        info = files[image_id]
        if not _is_extracted(writer, image_id, info):
            with images.open(info) as packed, writer.stage(image_id).open("wb") as file:
                shutil.copyfileobj(packed, file)

    return sources.write_limited(writer, captions, usable, limit, add_image)


def _build_from_kaggle(
    output: Path, folder: Path, images: Path, limit: int | None, collection: str | None
) -> DatasetSummary:
    found = csv_captions.read_captions(folder / _KAGGLE_CAPTIONS)
    lists = {split: name for split, name in _SPLIT_LISTS.items() if (folder / name).is_file()}
    # The name tells that results on other splits than Flickr8k's don't compare with the literature.
    name = "flickr8k" if lists else "flickr8k-kaggle"
    inputs = {"--source": [images, folder / _KAGGLE_CAPTIONS]}
    writer = DatasetWriter(
        output, name, options(limit), _LICENCE, inputs=inputs, collection=collection
    )
    splits = found.splits
    if lists:
        splits = _read_splits(writer, lists, lambda name: (folder / name).read_bytes())
    writer.left_out["lines without image or caption"] = found.empty
    captions = {image_id: texts for image_id, texts in found.captions.items() if image_id in splits}
    writer.left_out["images in no list"] = len(found.captions) - len(captions)
    return sources.import_images(writer, images, captions, splits, limit)


def _read_splits(
    writer: DatasetWriter, lists: Mapping[str, str], read: Callable[[str], bytes]
) -> dict[str, str]:
    """Returns the split of each image that the lists name, and counts missing lists as left out.

    Args:
      writer: the dataset whose ``left_out`` counts missing lists.
      lists: file name of each split's list that exists, by split.
      read: returns the content of a list by its file name; a list names one image a line.
    """
    splits: dict[str, str] = {}
    for split, name in _SPLIT_LISTS.items():
        if split not in lists:
            writer.left_out[f"missing list {name}"] = 1
            continue
        for line in source_text.split_lines(source_text.decode_source(read(name), name)):
            if image_id := line.strip():
                splits.setdefault(image_id, split)
    return splits


def _files_by_name(archive: zipfile.ZipFile, what: str) -> dict[str, zipfile.ZipInfo]:
    """Returns an archive's files by their names without folders.

    Raises:
      CaptionerError: an entry of the archive is not safe, whether it is used or not.
    """
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


def _read_tokens(writer: DatasetWriter, text: str) -> dict[str, list[str]]:
    """Returns the captions of each image, from lines ``name.jpg#number<TAB>caption``."""
    captions: dict[str, list[str]] = {}
    for line in source_text.split_lines(text):
        key, tab, caption = line.partition("\t")
        image_id, number_sign, _ = key.rpartition("#")
        caption = single_line(caption)
        if tab and number_sign and caption:
            captions.setdefault(image_id, []).append(caption)
        elif line.strip():
            writer.left_out["lines that are no caption"] += 1
    return captions


def _is_extracted(writer: DatasetWriter, image_id: str, info: zipfile.ZipInfo) -> bool:
    """Returns whether the dataset already contains an image with the same content."""
    path = writer.images / image_id
    return (
        writer.has(image_id)
        and path.stat().st_size == info.file_size
        and zlib.crc32(path.read_bytes()) == info.CRC
    )


def _download_zips(cache: Path) -> Path:
    folder = cache / "flickr8k"
    try:
        with locked(folder / "lock"):
            for name in (TEXT_ZIP, IMAGES_ZIP):
                if not (folder / name).exists():
                    download(_BASE_URL + name, folder / name)
    except DownloadError as error:
        raise CaptionerError(
            f"{error}; put {IMAGES_ZIP} and {TEXT_ZIP} into a folder and name it with "
            "FLICKR8K_DIR, or try again"
        ) from error
    return folder
