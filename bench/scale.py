"""Measures time per image and memory of extraction for folders of growing size.

    python -m bench.scale [--photographs DIR] [--grid]

Each folder is extracted in a process of its own. Small generated images with a backbone that hardly
computes show the cost of the pipeline alone. A folder of photographs, if given, is extracted with
Xception. The time per image excludes the start, which is the time that a single image takes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from captioner_core.features.base import Features
from captioner_core.tables.schemas import CELL_DIM, FEATURE_DIM, GRID_CELLS

MADE = (1, 1_000, 10_000, 100_000)
PHOTOGRAPHS = (1, 1_000, 8_000)
_SMALL_FOLDER = 1_000  # up to this size, times vary so much that the median of some rounds is taken
_ROUNDS = 5
_DISTINCT = 997  # distinct pictures among the generated images


class LightBackbone:
    """A backbone that hardly computes: it repeats some of the image's colours as features."""

    name = "light"
    input_size = 299
    precision = "float32"
    engine = "light"

    def features(self, pixels: npt.NDArray[np.uint8]) -> Features:
        """Returns features and grid; see ``Backbone.features``."""
        colours = pixels[:, ::50, ::50].reshape(len(pixels), -1).astype(np.float32)
        grid = np.resize(colours[0], (1, GRID_CELLS, CELL_DIM)).repeat(len(pixels), axis=0)
        return Features(np.stack([np.resize(row, FEATURE_DIM) for row in colours]), grid)


def main(argv: list[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--photographs",
        type=Path,
        help="folder of photographs, which are repeated if they are too few",
    )
    parser.add_argument(
        "--made", type=int, nargs="*", default=MADE, help="numbers of generated images"
    )
    parser.add_argument("--grid", action="store_true", help="extract the grid too")
    parser.add_argument("--run", nargs=2, metavar=("BACKBONE", "DIR"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.run:
        print(json.dumps(_extract(args.run[0], args.run[1], grid=args.grid)))
        return 0
    if args.made:
        with tempfile.TemporaryDirectory() as name:
            _table(
                "small generated images, light backbone",
                "light",
                args.made,
                _made(Path(name)),
                args,
            )
    if args.photographs:
        files = sorted(path for path in args.photographs.rglob("*") if path.is_file())
        with tempfile.TemporaryDirectory(dir=args.photographs.parent) as name:
            _table(
                "photographs, Xception", "xception", PHOTOGRAPHS, _linked(files, Path(name)), args
            )
    return 0


def _table(
    title: str,
    backbone: str,
    sizes: Sequence[int],
    folder_of: Callable[[int], Path],
    args: argparse.Namespace,
) -> None:
    print(f"{title}\n{'images':>9}{'seconds':>10}{'ms/image':>13}{'peak MB':>9}", flush=True)
    start = 0.0
    for size in sizes:
        command = [sys.executable, "-m", "bench.scale", "--run", backbone, str(folder_of(size))]
        command += ["--grid"] if args.grid else []
        found = [_measured(command) for _ in range(_ROUNDS if size <= _SMALL_FOLDER else 1)]
        seconds, peak = (
            statistics.median(one[name] for one in found) for name in ("seconds", "peak_mb")
        )
        start = start or seconds
        each = f"{1e3 * (seconds - start) / (size - 1):.3f}" if size > 1 else "start"
        print(f"{size:>9,}{seconds:>10.1f}{each:>13}{peak:>9,.0f}", flush=True)


def _measured(command: Sequence[str]) -> dict[str, float]:
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _extract(backbone: str, images: str, *, grid: bool) -> dict[str, float]:
    from beam_jobs import extract_features
    from captioner_core.options import ExtractOptions

    load = LightBackbone if backbone == "light" else None
    with tempfile.TemporaryDirectory() as output:
        start = time.perf_counter()
        extract_features.run(ExtractOptions(images=images, output=output, grid=grid), load=load)
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3}


def _made(folder: Path) -> Callable[[int], Path]:
    rng = np.random.default_rng(0)
    distinct = folder / "distinct"
    distinct.mkdir()
    for number in range(_DISTINCT):
        picture = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize((96, 72))
        picture.save(distinct / f"{number}.jpg")
    return _linked(sorted(distinct.iterdir()), folder)


def _linked(files: Sequence[Path], folder: Path) -> Callable[[int], Path]:
    def make(size: int) -> Path:
        """Returns a folder of so many images."""
        made = folder / str(size)
        made.mkdir()
        for number, file in enumerate(itertools.islice(itertools.cycle(files), size)):
            os.link(file, made / f"{number:06d}{file.suffix}")
        return made

    return make


if __name__ == "__main__":
    sys.exit(main())
