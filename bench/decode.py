"""Times decoding of JPEGs to the size that the network sees: ours, simplejpeg, and pyvips.

    python -m bench.decode --images DIR [--count N] [--rounds N]

All shrink while they decode. A photograph of 12 megapixels is a mosaic of 64 photographs of the
folder, so that it has as many details as a photograph has.
"""

from __future__ import annotations

import argparse
import io
import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyvips
import simplejpeg
from PIL import Image

from bench.timing import compare
from captioner_core.images import decoding

SIDE = 299
COUNT = 256
LARGE_COUNT = 4
ROUNDS = 5
COLUMNS = 8
TILE = (500, 375)
QUALITY = 90

Pixels = npt.NDArray[np.uint8]


def main(argv: list[str] | None = None) -> int:
    """Prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True, help="folder of JPEGs")
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    args = parser.parse_args(argv)
    pyvips.cache_set_max(0)  # It would return an image that it has decoded before.
    files = sorted(args.images.glob("*.jpg"))
    tiles_per_mosaic = COLUMNS * COLUMNS
    large = [
        make_mosaic(files[tiles_per_mosaic * number : tiles_per_mosaic * (number + 1)])
        for number in range(LARGE_COUNT)
    ]
    _compare("photographs of 12 megapixels", large, args.rounds)
    _compare("photographs", [file.read_bytes() for file in files[: args.count]], args.rounds)
    return 0


def make_mosaic(files: Sequence[Path]) -> bytes:
    """Returns a JPEG of 12 megapixels in which each file is a tile."""
    mosaic = Image.new("RGB", (COLUMNS * TILE[0], COLUMNS * TILE[1]))
    for file, (row, column) in zip(files, itertools.product(range(COLUMNS), repeat=2), strict=True):
        with Image.open(file) as image:
            mosaic.paste(image.resize(TILE), (column * TILE[0], row * TILE[1]))
    stream = io.BytesIO()
    mosaic.save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()


def with_simplejpeg(data: bytes) -> Pixels:
    """Returns the pixels of a JPEG, which simplejpeg shrinks and Pillow scales."""
    shrunk = simplejpeg.decode_jpeg(data, "RGB", min_height=2 * SIDE, min_width=2 * SIDE)
    square = Image.fromarray(shrunk).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.asarray(square)


def with_pyvips(data: bytes) -> Pixels:
    """Returns the pixels of a JPEG, which libvips shrinks and scales."""
    return np.asarray(pyvips.Image.thumbnail_buffer(data, SIDE, height=SIDE, size="force"))


def with_ours(data: bytes) -> Pixels:
    """Returns the pixels of a JPEG as our jobs decode it, with Pillow."""
    return decoding.decode(data).pixels


def _compare(title: str, images: Sequence[bytes], rounds: int) -> None:
    def each(decode: Callable[[bytes], Pixels]) -> Callable[[], None]:
        """Returns a function that decodes all images."""

        def decode_all() -> None:
            """Decodes all images, one after the other."""
            for data in images:
                decode(data)

        return decode_all

    ways = {
        "simplejpeg, scaled by Pillow": each(with_simplejpeg),
        "pyvips": each(with_pyvips),
        "ours (Pillow)": each(with_ours),
    }
    compare(title, ways, amount=len(images), unit="images", rounds=rounds)


if __name__ == "__main__":
    sys.exit(main())
