"""Xception features: our job against the usual notebook loop.

The peer loads, scales and predicts one image at a time with Keras, as tutorials do.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from captioner_core.cli import quiet_libraries

quiet_libraries()

import keras  # noqa: E402
import numpy as np  # noqa: E402

from beam_jobs import extract_features  # noqa: E402
from bench.timing import compare  # noqa: E402
from captioner_core import assets, images  # noqa: E402
from captioner_core.backbones import load_backbone  # noqa: E402
from captioner_core.datasets import sample  # noqa: E402
from captioner_core.options import ExtractOptions  # noqa: E402

IMAGES = 64
BATCH = 32


def main() -> int:
    """Prints the table."""
    with tempfile.TemporaryDirectory() as folder:
        sample.build(Path(folder, "sample"), images=IMAGES)
        files = sorted(Path(folder, "sample", "images").iterdir())
        network = keras.applications.Xception(weights=None, include_top=False, pooling="avg", input_shape=(299, 299, 3))
        network.load_weights(assets.xception_weights())
        backbone = load_backbone("xception")

        def notebook() -> None:
            for file in files:
                pixels = keras.utils.img_to_array(keras.utils.load_img(file, target_size=(299, 299)))
                network.predict(keras.applications.xception.preprocess_input(pixels[None]), verbose=0)

        def core() -> None:
            for start in range(0, len(files), BATCH):
                chosen = files[start : start + BATCH]
                backbone.features(np.stack([images.decode(file.read_bytes())[0] for file in chosen]))

        options = ExtractOptions(images=str(files[0].parent), output=folder, batch_size=BATCH)
        ways = {
            "Keras predict, one image at a time": notebook,
            f"our backbone, batches of {BATCH}": core,
            "our Beam job, with its start and its tables": lambda: extract_features.run(options),
        }
        compare("Xception features", ways, amount=IMAGES, unit="images")
    return 0


if __name__ == "__main__":
    sys.exit(main())
