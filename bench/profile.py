"""Times the stages of ``captioner caption``, and estimates how fast each could be on this machine.

    python -m bench.profile --images DIR [--count N]

Each stage is timed by itself, in one thread except where TensorFlow uses more, and then the whole
job.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from captioner_core.process.environment import quiet_libraries

quiet_libraries()

import numpy as np  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
import tensorflow as tf  # noqa: E402

from beam_jobs import caption_images  # noqa: E402
from beam_jobs.handlers import CaptionedImage, CaptionHandler  # noqa: E402
from captioner_core.captioning.captioning_models import load_models  # noqa: E402
from captioner_core.captioning.grid import attended_cells  # noqa: E402
from captioner_core.captioning.saved_model import load_model  # noqa: E402
from captioner_core.captioning.search.base import load_search  # noqa: E402
from captioner_core.features.engines import choose_engine  # noqa: E402
from captioner_core.features.xception_graph import build_network  # noqa: E402
from captioner_core.images import decoding  # noqa: E402
from captioner_core.images.remote_listing import list_entries, read_bytes  # noqa: E402
from captioner_core.options import PRETRAINED, CaptionOptions  # noqa: E402
from captioner_core.tables.schemas import (  # noqa: E402
    CAPTIONS_SCHEMA,
    FEATURES_SCHEMA,
    ImageRef,
    rows_as_table,
)
from captioner_core.text.vocabulary import PAD  # noqa: E402

COUNT = 512
BATCH = 32
SIDE = 4096  # rows and columns of the matrices whose product is timed


def main(argv: list[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--count", type=int, default=COUNT)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=args.images.parent) as name:
        folder = Path(name, "images")
        folder.mkdir()
        for file in sorted(args.images.iterdir())[: args.count]:
            os.link(file, folder / file.name)
        _profile(folder, Path(name, "out"))
    return 0


def _profile(folder: Path, output: Path) -> None:
    start = time.perf_counter()
    handler = CaptionHandler(_load, batch_size=BATCH)
    models = handler.load_model()
    loaded = time.perf_counter() - start
    refs, listing = _timed(
        lambda: [entry for entry in list_entries(str(folder)) if isinstance(entry, ImageRef)]
    )
    count = len(refs)
    _, listing_least = _timed(lambda: [entry.name for entry in os.scandir(folder)])
    data, reading = _timed(
        lambda: [read_bytes(ref.image_uri, 1 << 28, str(folder)) for ref in refs]
    )
    _, reading_least = _timed(lambda: [Path(ref.image_uri).read_bytes() for ref in refs])
    decoded, decode_s = _timed(lambda: [decoding.decode(one) for one in data])
    pictures = [
        decoding.DecodedImage(ref, "0" * 64, width, height, pixels)
        for ref, (pixels, width, height) in zip(refs, decoded, strict=True)
    ]
    batches = [pictures[first : first + BATCH] for first in range(0, count, BATCH)]
    pixels = [np.stack([picture.pixels for picture in batch]) for batch in batches]
    _, first_batch = _timed(lambda: handler.run_inference(batches[0], models))
    seen, inference = _timed(lambda: [models.backbone.features(batch) for batch in pixels])
    _, captions = _timed(lambda: [models.generator.generate(*pair) for pair in seen])
    rows = [row for batch in batches[:2] for row in handler.run_inference(batch, models)]
    rows = (rows * (count // len(rows) + 1))[:count]
    written, writing = _timed(lambda: _write(rows))
    options = CaptionOptions(images=str(folder), output=str(output), batch_size=BATCH, reuse=False)
    _, whole = _timed(lambda: caption_images.run(options))
    engine, precision = choose_engine()
    operations = _operations()
    rate = _peak(tf.float32)
    captions_least = _caption_operations([grid for _, grid in seen])
    print(
        f"{count} photographs, {engine}, {precision}; matrix products of {SIDE} in float32: "
        f"{rate / 1e9:.0f} GFLOP/s"
    )
    print(f"each image: {operations / 1e9:.1f} GFLOP of convolutions")
    print(f"\n{'stage':24}{'ms/image':>12}{'minimum':>8}  how the minimum is computed")
    for stage, seconds, least, what in (
        ("listing", listing, listing_least, "reading only the names"),
        ("reading", reading, reading_least, "without checks"),
        ("decoding", decode_s, None, ""),
        ("inference", inference, count * operations / rate, "in float32, at that rate"),
        ("captions", captions, captions_least / rate, "in float32, at that rate"),
        ("rows and Parquet", writing, written / 1e9, "zstd at 1 GB/s"),
        (
            "whole job",
            whole,
            None,
            f"includes {loaded:.1f} s to load and {first_batch:.1f} s for the first batch",
        ),
    ):
        shown = "" if least is None else f"{1e3 * least / count:.3f}"
        print(f"{stage:24}{1e3 * seconds / count:12.3f}{shown:>8}  {what}")


def _load() -> Any:
    engine, precision = choose_engine()
    return load_models("xception", PRETRAINED, None, precision, engine)


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Returns the result of a function and the seconds that it took."""
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def _write(rows: list[CaptionedImage]) -> int:
    """Writes the tables of some rows, and returns their size in memory in bytes."""
    size = 0
    for part, schema in (
        ([r.features for r in rows], FEATURES_SCHEMA),
        ([r.caption for r in rows], CAPTIONS_SCHEMA),
    ):
        table = rows_as_table(part, "profile", schema)
        pq.write_table(table, io.BytesIO(), compression="zstd")
        size += table.nbytes
    return size


def _operations() -> int:
    """Returns the multiplications and additions of all convolutions for one image."""
    count = 0
    for node in build_network(1).get_ops():
        kind = node.get_type_name()
        if kind in ("Convolution", "GroupConvolution"):
            # A kernel is [out, in, height, width], or [groups, out, in, height, width].
            per_output = np.prod(
                node.input_value(1).get_shape()[1 + (kind == "GroupConvolution") :]
            )
            count += 2 * int(np.prod(node.get_output_shape(0)) * per_output)
    return count


def _caption_operations(grids: list[np.ndarray]) -> int:
    """Returns the multiplications and additions for the captions of all images.

    The cells of an image count once, and each hypothesis once for each of its words.
    """
    model = load_model(PRETRAINED)
    config = model.config
    search = load_search(model)
    units = config.units
    width = config.embedding_dim
    image = config.cell_count * units * (config.cell_dim + 2 * units) + 2 * units * units
    step = 4 * units * (width + units) + units * units + 2 * config.cell_count * units
    step += 2 * units * width + width * config.vocabulary_size
    total = 0
    for grid in grids:
        words = search.find(attended_cells(grid, config)).words
        steps = int((words != PAD).sum())
        total += 2 * config.members * (len(grid) * image + steps * step)
    return total


def _peak(dtype: tf.DType) -> float:
    """Returns the operations per second of a large matrix product."""
    one = tf.cast(tf.random.normal([SIDE, SIDE]), dtype)
    multiply = tf.function(lambda: tf.reduce_sum(tf.matmul(one, one)))
    multiply()
    taken = min(_timed(lambda: multiply().numpy())[1] for _ in range(3))
    return float(2 * SIDE**3 / taken)


if __name__ == "__main__":
    sys.exit(main())
