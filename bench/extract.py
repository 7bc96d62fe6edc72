"""Times Xception features: whole jobs as processes, and the network alone.

    python -m bench.extract [--images DIR] [--count N] [--rounds N] [--only REGEX]

The peers are ``model.predict`` over ``tf.data`` as in TensorFlow's guides, Ray Data and Daft as in
their documentation (``bench/extract_peers.py``), and one image at a time as in tutorials. All read
the same files with the same weights; the peers return only the averaged features. In the first
table each way is a process, and its start counts. In the others everything is loaded, and each way
is called once before it is timed.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from argparse import SUPPRESS
from collections.abc import Callable, Sequence
from pathlib import Path

from captioner_core.process.environment import quiet_libraries

quiet_libraries()

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from bench import extract_peers  # noqa: E402
from bench.timing import compare  # noqa: E402
from captioner_core.datasets import sample  # noqa: E402
from captioner_core.features import Backbone, load_backbone  # noqa: E402
from captioner_core.features.engines import load_engine  # noqa: E402
from captioner_core.images import decoding  # noqa: E402

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
        "--only", default="", metavar="REGEX", help="time only ways whose names contain this"
    )
    parser.add_argument("--peer", nargs=3, metavar=("NAME", "IMAGES", "OUTPUT"), help=SUPPRESS)
    args = parser.parse_args(argv)
    if args.peer:
        name, images, output = args.peer
        _run_peer(name, Path(images), Path(output))
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        source = args.images
        if source is None:
            sample.build(Path(scratch, "sample"), images=args.count)
            source = Path(scratch, "sample", "images")
        folder = Path(scratch, "images")
        folder.mkdir()
        for file in sorted(source.iterdir())[: args.count]:
            shutil.copy(file, folder)
        # Each table's networks are loaded when its turn comes, not beside the processes before it.
        for title, make_ways, amount in (
            ("Xception features, whole processes", _processes, args.count),
            ("Xception features, everything loaded", _in_memory, args.count),
            ("The tutorials' loop", _loop, BATCH),
        ):
            ways = make_ways(folder)
            chosen = {name: way for name, way in ways.items() if re.search(args.only, name)}
            if chosen:
                compare(title, chosen, amount=amount, unit="images", rounds=args.rounds)
    return 0


def _processes(folder: Path) -> dict[str, Callable[[], object]]:
    """Returns the peers and our job, each as a process that loads all it needs."""
    scratch = folder.parent
    this = [sys.executable, "-m", "bench.extract", "--peer"]
    names = {"predict": "model.predict over tf.data"}
    if all(importlib.util.find_spec(module) for module in ("daft", "ray")):
        names |= {"ray": "Ray Data, map_batches", "daft": "Daft, batch method of a class"}
    else:
        print("Ray Data and Daft, which 'make bench' installs, are missing")
    commands = {
        title: [*this, name, str(folder), str(scratch / name)] for name, title in names.items()
    }
    extract = [sys.executable, "-m", "captioner_cli.main", "extract", "--no-reuse"]
    extract += [f"--images={folder}", f"--output={scratch / 'out'}", f"--batch-size={BATCH}"]
    for precision in sorted(load_engine("openvino").precisions()):
        commands[f"captioner extract, {precision}"] = [*extract, f"--precision={precision}"]
        commands[f"captioner extract, {precision}, with grid"] = [
            *extract,
            f"--precision={precision}",
            "--grid",
        ]
    return {title: functools.partial(_run, command) for title, command in commands.items()}


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _run_peer(name: str, folder: Path, output: Path) -> None:
    """Extracts the features of a folder as a peer does."""
    if name == "ray":
        extract_peers.ray_data(folder, output)
    elif name == "daft":
        extract_peers.daft_frames(folder, output)
    else:
        _predict(extract_peers.keras_averages(), sorted(folder.iterdir()))


def _in_memory(folder: Path) -> dict[str, Callable[[], object]]:
    """Returns ``model.predict`` and our network, with the weights loaded."""
    files = sorted(folder.iterdir())
    network = extract_peers.keras_averages()
    decoded = np.stack([decoding.decode(file.read_bytes()).pixels for file in files])
    ways: dict[str, Callable[[], object]] = {
        "model.predict over tf.data": lambda: _predict(network, files)
    }
    for precision in sorted(load_engine("openvino").precisions()):
        backbone = load_backbone("xception", precision)
        ways[f"our network, {precision}, pixels in memory"] = functools.partial(
            _network_alone, backbone, decoded
        )
    return ways


def _loop(folder: Path) -> dict[str, Callable[[], object]]:
    network = extract_peers.keras_averages()
    files = sorted(folder.iterdir())[:BATCH]
    return {"Keras predict, one image at a time": lambda: _one_by_one(network, files)}


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


def _network_alone(backbone: Backbone, decoded: np.ndarray) -> None:
    for start in range(0, len(decoded), BATCH):
        backbone.features(decoded[start : start + BATCH])


if __name__ == "__main__":
    sys.exit(main())
