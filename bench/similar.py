"""Times ``captioner similar`` for an image, after everything is loaded and from a cold start.

    python -m bench.similar --dataset DIR [--captions N]

The index consists of the captions of the dataset, repeated with a number to make N distinct ones.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from captioner_core.process.environment import quiet_libraries

quiet_libraries()

import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

from captioner_core.analysis.similar_images import SimilarImageFinder, write_picture  # noqa: E402
from captioner_core.io import storage  # noqa: E402
from captioner_core.options import DEFAULT_ENCODER, PRETRAINED  # noqa: E402
from captioner_core.tables import layout  # noqa: E402

IMAGES = 12


def main(argv: list[str] | None = None) -> int:
    """Prints the times."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", required=True, type=Path, help="dataset folder")
    parser.add_argument("--captions", type=int, default=40_000)
    args = parser.parse_args(argv)
    images = sorted((args.dataset / layout.DATASET_IMAGES).iterdir())[: IMAGES + 1]
    with tempfile.TemporaryDirectory() as folder:
        index = _index(args.dataset, args.captions, Path(folder))
        start = time.perf_counter()
        finder = SimilarImageFinder(PRETRAINED, [index], DEFAULT_ENCODER)
        loaded = time.perf_counter()
        taken = []
        for image in images:
            before = time.perf_counter()
            write_picture(
                finder.find(str(image), threshold=0.9, top_k=5), str(Path(folder, "similar.png"))
            )
            taken.append(time.perf_counter() - before)
    warm = taken[1:]
    print(
        f"{args.captions:,} captions: loading {loaded - start:.2f} s, first image {taken[0]:.2f} s"
    )
    middle = statistics.median(warm)
    print(f"warm, with picture: median {middle:.2f} s, {min(warm):.2f} to {max(warm):.2f} s")
    return 0


def _index(dataset: Path, count: int, folder: Path) -> str:
    table = storage.read_table(str(dataset / layout.DATASET_CAPTIONS))
    repeats = -(-count // len(table))
    whole = pa.concat_tables([table] * repeats).slice(0, count)
    texts = [f"{text} {number}" for number, text in enumerate(whole.column("caption").to_pylist())]
    column = whole.schema.get_field_index("caption")
    pq.write_table(
        whole.set_column(column, whole.schema.field(column), pa.array(texts)),
        folder / "captions.parquet",
    )
    return str(folder / "captions.parquet")


if __name__ == "__main__":
    sys.exit(main())
