"""Xception features: our network and our whole job against what people write.

    python -m bench.extract [--images N] [--rounds N]

Peers: ``model.predict`` over ``tf.data`` as TensorFlow's guides write it, and one image at a time as tutorials
do. They give the averages alone; ours also keeps the grid of three depths, except where it says so.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from captioner_core.cli import quiet_libraries

quiet_libraries()

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from beam_jobs import extract_features  # noqa: E402
from bench.timing import compare  # noqa: E402
from captioner_core import assets, images  # noqa: E402
from captioner_core.backbones import load_backbone  # noqa: E402
from captioner_core.datasets import sample  # noqa: E402
from captioner_core.errors import CaptionerError  # noqa: E402
from captioner_core.options import PRECISIONS, ExtractOptions  # noqa: E402

IMAGES, ROUNDS, BATCH = 256, 5, 32


def main(argv: list[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    asked = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        sample.build(Path(folder, "sample"), images=asked.images)
        files = sorted(Path(folder, "sample", "images").iterdir())
        decoded = np.stack([images.decode(file.read_bytes())[0] for file in files])
        network = keras.applications.Xception(weights=None, include_top=False, pooling="avg", input_shape=(299, 299, 3))
        network.load_weights(assets.xception_weights())

        def predict() -> None:
            def load(name: tf.Tensor) -> tf.Tensor:
                pixels = tf.image.resize(tf.io.decode_jpeg(tf.io.read_file(name), channels=3), (299, 299))
                return keras.applications.xception.preprocess_input(pixels)

            listed = tf.data.Dataset.from_tensor_slices([str(file) for file in files])
            batches = listed.map(load, num_parallel_calls=tf.data.AUTOTUNE).batch(BATCH).prefetch(tf.data.AUTOTUNE)
            network.predict(batches, verbose=0)

        def notebook() -> None:
            for file in files[:BATCH]:
                pixels = keras.utils.img_to_array(keras.utils.load_img(file, target_size=(299, 299)))
                network.predict(keras.applications.xception.preprocess_input(pixels[None]), verbose=0)

        ways = {"model.predict over tf.data": predict}
        for precision in PRECISIONS:
            try:
                backbone = load_backbone("xception", precision)
            except CaptionerError as error:
                print(error)
                continue

            def network_alone(backbone: object = backbone) -> None:
                for start in range(0, len(decoded), BATCH):
                    backbone.features(decoded[start : start + BATCH])  # type: ignore[attr-defined]

            ways[f"our network, {precision}, pixels in memory"] = network_alone
            for grid in (False, True):
                options = ExtractOptions(
                    images=str(files[0].parent),
                    output=folder,
                    batch_size=BATCH,
                    precision=precision,
                    grid=grid,
                    reuse=False,
                )
                name = f"our Beam job, {precision}, {'with' if grid else 'no'} grid, start included"
                ways[name] = lambda options=options: extract_features.run(options)
        compare("Xception features", ways, amount=len(files), unit="images", rounds=asked.rounds)
        ways = {"Keras predict, one image at a time": notebook}
        compare("The tutorial's loop", ways, amount=BATCH, unit="images", rounds=asked.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
