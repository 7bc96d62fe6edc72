"""The channel means of Xception over photographs, which rounding to bfloat16 is corrected by.

``xception_means.npz`` comes with the package; this made it, from photographs of Flickr8k's training split:

    python -m captioner_core.features.means --images DIR
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from captioner_core.features.lowered import ChannelMeans, channel_means

_FILE = Path(__file__).with_name("xception_means.npz")
_IMAGES, _BATCH = 256, 8
_TAKEN, _BETWEEN = "taken", "between"


def load_means() -> ChannelMeans:
    """Those that come with the package."""
    with np.load(_FILE, allow_pickle=False) as file:
        arrays = {name: file[name].astype(np.float32) for name in file.files}
    numbers = sorted({int(name.partition(".")[0]) for name in arrays})
    return {
        number: (arrays[f"{number}.{_TAKEN}"], arrays.get(f"{number}.{_BETWEEN}"))
        for number in numbers
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the file."""
    from captioner_core.features.xception import keras_network

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--images",
        type=Path,
        required=True,
        help="folder of photographs, none that one is judged by",
    )
    folder = parser.parse_args(argv).images
    means = channel_means(keras_network(), _pictures(sorted(folder.iterdir())))
    named = {
        f"{number}.{name}": values.astype(np.float16)
        for number, pair in means.items()
        for name, values in zip((_TAKEN, _BETWEEN), pair, strict=True)
        if values is not None
    }
    np.savez_compressed(_FILE, allow_pickle=False, **named)
    print(
        f"{_FILE}: {sum(values.size for values in named.values())} means, {_FILE.stat().st_size} bytes"
    )
    return 0


def _pictures(files: Sequence[Path]) -> Iterator[npt.NDArray[np.float32]]:
    from captioner_core.features.xception import scaled
    from captioner_core.images import decoding

    chosen = files[:: max(1, len(files) // _IMAGES)][:_IMAGES]
    for start in range(0, len(chosen), _BATCH):
        pixels = np.stack(
            [decoding.decode(file.read_bytes())[0] for file in chosen[start : start + _BATCH]]
        )
        yield np.asarray(scaled(pixels.astype(np.float32)))


if __name__ == "__main__":
    sys.exit(main())
