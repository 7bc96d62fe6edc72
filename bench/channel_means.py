"""Makes ``captioner_core/features/xception_means.npz``, the channel means that bfloat16 needs.

The packaged means are those of 256 photographs of Flickr8k's training split:

    python -m bench.channel_means --images DIR
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from captioner_core.features.channel_means import save_channel_means
from captioner_core.features.frozen_graph import measure_channel_means
from captioner_core.features.xception import keras_network, scale_pixels
from captioner_core.images import decoding

IMAGES = 256
BATCH = 8


def main() -> int:
    """Writes the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--images",
        type=Path,
        required=True,
        help="folder of photographs; use none that measure precision or captions",
    )
    files = sorted(parser.parse_args().images.iterdir())
    save_channel_means(measure_channel_means(keras_network(), _read_batches(files)))
    return 0


def _read_batches(files: Sequence[Path]) -> Iterator[npt.NDArray[np.float32]]:
    """Yields evenly spaced photographs as the network takes them, a batch at a time."""
    chosen = files[:: max(1, len(files) // IMAGES)][:IMAGES]
    for start in range(0, len(chosen), BATCH):
        batch = chosen[start : start + BATCH]
        pixels = np.stack([decoding.decode(file.read_bytes())[0] for file in batch])
        yield np.asarray(scale_pixels(pixels.astype(np.float32)))


if __name__ == "__main__":
    sys.exit(main())
