"""Prepares the subset of COCO that the packaged models are trained on.

    python tools/split_coco.py SOURCE OUTPUT

SOURCE holds ``images.zip``, ``captions.csv`` (image, caption) and
``captions_without_images.tsv.gz`` (source, image, caption; no header). OUTPUT gets ``images/``,
``captions.csv`` with a split for each image, and ``language.csv`` with the captions without images.

One in seven images with at least five captions becomes dev, by the hash of its number in COCO; all
others train. The captions without images also cover the images of ``captions.csv``, so those of dev
images are left out.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import re
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

_DEV_INTERVAL = 7
_MIN_DEV_CAPTIONS = 5
_IMAGE_SUFFIX = ".webp"


def main(arguments: Sequence[str]) -> int:
    """Writes the folder, and prints how much it holds."""
    source, output = map(Path, arguments)
    captions = read_captions(source / "captions.csv")
    dev = {
        image_number(image)
        for image, texts in captions.items()
        if is_dev(image_number(image), len(texts))
    }
    images = output / "images"
    images.mkdir(parents=True, exist_ok=True)
    extract_images(source / "images.zip", images)
    write_captions(output / "captions.csv", captions, dev)
    kept = write_language(source / "captions_without_images.tsv.gz", output / "language.csv", dev)
    print(f"{len(captions)} images, {len(dev)} of them dev; {kept} captions without images")
    return 0


def read_captions(path: Path) -> dict[str, list[str]]:
    """Returns the captions of each image."""
    captions: dict[str, list[str]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            captions.setdefault(row["image"], []).append(row["caption"])
    return captions


def image_number(name: str) -> str:
    """Returns the number that COCO gave to an image, 12 digits.

    >>> image_number("coco_000000030752.webp")
    '000000030752'
    """
    return re.sub(r"\D", "", name)[-12:]


def is_dev(number: str, caption_count: int) -> bool:
    """Returns whether an image belongs to dev. Scores of a single caption would be far lower."""
    digest = hashlib.sha256(number.encode("ascii")).digest()
    return caption_count >= _MIN_DEV_CAPTIONS and digest[0] % _DEV_INTERVAL == 0


def extract_images(archive: Path, folder: Path) -> None:
    """Extracts the images of a zip archive into a folder, without the folders of the archive."""
    with zipfile.ZipFile(archive) as files:
        for member in files.infolist():
            name = Path(member.filename).name
            if name.endswith(_IMAGE_SUFFIX):
                (folder / name).write_bytes(files.read(member))


def write_captions(path: Path, captions: Mapping[str, Sequence[str]], dev: set[str]) -> None:
    """Writes a CSV file with the split of each caption's image."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("image_id", "caption", "split"))
        for image, texts in captions.items():
            split = "dev" if image_number(image) in dev else "train"
            writer.writerows((image, text, split) for text in texts)


def write_language(source: Path, path: Path, dev: set[str]) -> int:
    """Writes a CSV file of captions without images, and returns their number."""
    kept = 0
    with (
        gzip.open(source, "rt", encoding="utf-8") as lines,
        path.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(("image_id", "caption", "split"))
        for line in lines:
            collection, image, caption = line.rstrip("\n").split("\t", 2)
            if collection == "coco" and image_number(image) in dev:
                continue
            writer.writerow((f"{collection}/{image}", caption, "train"))
            kept += 1
    return kept


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
