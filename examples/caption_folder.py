"""Captions every image below a folder and writes a CSV file.

    python examples/caption_folder.py IMAGES_DIR captions.csv

The file has a row for each image. An image that cannot be used has no caption, but a reason.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses

import captioner_core


def caption_folder(images: str, output: str) -> None:
    """Captions the images of a folder.

    Args:
      images: The folder.
      output: The CSV file to write.
    """
    paths = captioner_core.list_images(images)
    captioner = captioner_core.load_captioner()
    columns = [field.name for field in dataclasses.fields(captioner_core.ImageCaption)]
    with open(output, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        # Results come a batch at a time, so the file grows while the work goes on.
        for result in captioner.caption_images(paths):
            writer.writerow(dataclasses.asdict(result))
    print(f"{len(paths)} images captioned by {captioner.model_id} in {output}")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Captions images and writes a CSV file.")
    parser.add_argument("images", help="folder of images")
    parser.add_argument("output", help="CSV file to write")
    arguments = parser.parse_args()
    caption_folder(arguments.images, arguments.output)


if __name__ == "__main__":
    main()
