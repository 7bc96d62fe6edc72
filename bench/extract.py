"""Times Xception features: our network and our whole job, and what people commonly write.

    python -m bench.extract [--images DIR] [--count N] [--rounds N] [--only TEXT]

The peers are ``model.predict`` over ``tf.data`` as in TensorFlow's guides, Ray Data and Daft as in
their documentation (``bench/extract_peers.py``), and one image at a time as in tutorials. All read
the same files with the same weights; the peers return only the averaged features. Each way is
called once before it is timed, so Ray is running and the network of ``model.predict`` is loaded.
The other jobs load what they need each time.
"""

from __future__ import annotations

import argparse
import functools
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from captioner_core.process.environment import quiet_libraries

quiet_libraries()

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from beam_jobs import extract_features  # noqa: E402
from bench import extract_peers  # noqa: E402
from bench.timing import compare  # noqa: E402
from captioner_core.datasets import sample  # noqa: E402
from captioner_core.errors import CaptionerError  # noqa: E402
from captioner_core.features import Backbone, load_backbone  # noqa: E402
from captioner_core.images import decoding  # noqa: E402
from captioner_core.options import PRECISIONS, ExtractOptions  # noqa: E402

COUNT = 512
ROUNDS = 5
BATCH = 32


def main(argv: list[str] | None = None) -> int:
    """Prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, help="folder of JPEGs (default: drawn ones)")
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument(
        "--only",
        default="",
        metavar="TEXT",
        help="time only ways whose names contain this, and not the loop of tutorials",
    )
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        source = args.images
        if source is None:
            sample.build(Path(scratch, "sample"), images=args.count)
            source = Path(scratch, "sample", "images")
        folder = Path(scratch, "images")
        folder.mkdir()
        for file in sorted(source.iterdir())[: args.count]:
            shutil.copy(file, folder)
        files = sorted(folder.iterdir())
        network = extract_peers.keras_averages()
        ways = {
            "model.predict over tf.data": lambda: _predict(network, files),
            **_peers(folder, Path(scratch, "peer")),
            **_ours(folder, Path(scratch, "out")),
        }
        ways = {name: way for name, way in ways.items() if args.only in name}
        compare("Xception features", ways, amount=len(files), unit="images", rounds=args.rounds)
        if args.only:
            return 0
        ways = {"Keras predict, one image at a time": lambda: _one_by_one(network, files[:BATCH])}
        compare("The tutorials' loop", ways, amount=BATCH, unit="images", rounds=args.rounds)
    return 0


def _predict(network: keras.Model, files: Sequence[Path]) -> None:
    def load(name: tf.Tensor) -> tf.Tensor:
        """Returns the network's input for a file."""
        pixels = tf.image.resize(tf.io.decode_jpeg(tf.io.read_file(name), channels=3), (299, 299))
        return keras.applications.xception.preprocess_input(pixels)

    listed = tf.data.Dataset.from_tensor_slices([str(file) for file in files])
    batches = (
        listed.map(load, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(BATCH)
        .prefetch(tf.data.AUTOTUNE)
    )
    network.predict(batches, verbose=0)


def _one_by_one(network: keras.Model, files: Sequence[Path]) -> None:
    for file in files:
        pixels = keras.utils.img_to_array(keras.utils.load_img(file, target_size=(299, 299)))
        network.predict(keras.applications.xception.preprocess_input(pixels[None]), verbose=0)


def _peers(folder: Path, output: Path) -> dict[str, Callable[[], object]]:
    try:
        import daft  # noqa: F401
        import ray  # noqa: F401
    except ImportError as error:
        print(f"{error}; skipping Ray Data and Daft, which 'make bench' installs")
        return {}
    return {
        "Ray Data, map_batches": lambda: extract_peers.ray_data(folder, output / "ray"),
        "Daft, batch method of a class": lambda: extract_peers.daft_frames(folder, output / "daft"),
    }


def _ours(folder: Path, output: Path) -> dict[str, Callable[[], object]]:
    decoded = np.stack([decoding.decode(file.read_bytes())[0] for file in sorted(folder.iterdir())])
    ways: dict[str, Callable[[], object]] = {}
    for precision in PRECISIONS:
        try:
            backbone = load_backbone("xception", precision)
        except CaptionerError as error:
            print(error)
            continue
        ways[f"our network, {precision}, pixels in memory"] = functools.partial(
            _network_alone, backbone, decoded
        )
        for grid in (False, True):
            options = ExtractOptions(
                images=str(folder),
                output=str(output),
                batch_size=BATCH,
                precision=precision,
                grid=grid,
                reuse=False,
            )
            name = f"our whole job, {precision}, {'with' if grid else 'no'} grid"
            ways[name] = functools.partial(extract_features.run, options)
    return ways


def _network_alone(backbone: Backbone, decoded: np.ndarray) -> None:
    for start in range(0, len(decoded), BATCH):
        backbone.features(decoded[start : start + BATCH])


if __name__ == "__main__":
    sys.exit(main())
